"""WHO ACTS: models (providers and scripted ones) behind one small protocol, their prices, and calling tools."""
