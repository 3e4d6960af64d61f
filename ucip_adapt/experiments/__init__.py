"""Experiments as a ledger of cells: what there is to do, what is done, what it says."""
