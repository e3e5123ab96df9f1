"""`swarm bench report`: one page from result files."""
