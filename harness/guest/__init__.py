"""The guest: its images, and the protocol of its agent."""
