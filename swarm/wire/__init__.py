"""Messages, frames, tensor schema and codecs: what crosses the network, and nothing that moves it."""
