"""UCloud: its API client, the verification of its tokens, and the delivery of job updates."""
