"""The volunteer's program: hosting trunk layers, owning a private shard, or both."""
