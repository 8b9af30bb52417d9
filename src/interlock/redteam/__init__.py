"""The red team: attacks on the engine, and the hostile surroundings they need. Imported by nothing but the CLI."""
