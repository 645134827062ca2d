"""Tests of the IP-Adapter extension."""
