"""The admin's program: admits peers, plans, leads the steps and keeps the audit log."""
