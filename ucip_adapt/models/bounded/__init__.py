"""The whole image's result in bounded memory: the network layer by layer, over strips of lines."""
