"""A discrete-event simulator: the production state machines on virtual peers, in virtual time."""
