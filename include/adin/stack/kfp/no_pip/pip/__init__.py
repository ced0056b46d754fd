"""Stands before pip in the steps of local KFP."""
