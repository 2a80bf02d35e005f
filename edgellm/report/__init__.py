"""Results into tables and verdicts. Reads result JSON only: needs no compiled module, no model, no package that measures."""
