"""What is claimed: by others (published figures) and, as verdicts, against our own records."""
