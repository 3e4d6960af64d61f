"""Folders in the Hub's layout, and their cards."""
