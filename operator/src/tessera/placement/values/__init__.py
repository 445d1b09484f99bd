"""Learned values of layouts: the files, and what reads them."""
