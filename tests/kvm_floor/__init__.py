"""kvm-floor against a real /dev/kvm; skipped where it does not open."""
