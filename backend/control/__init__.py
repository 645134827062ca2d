"""Guidance networks (ControlNet and its kin): from a file to a network, and from a picture to its hint."""
