"""What rigs share: the ladder of a cold start, fleets, network paths, reachability, a reboot."""
