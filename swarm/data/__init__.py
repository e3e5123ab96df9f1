"""Private shards: reading, tokenising, sampling."""
