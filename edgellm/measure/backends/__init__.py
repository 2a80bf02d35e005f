"""Engines behind one protocol, so that each is measured the same way."""
