"""What Sluice costs, measured beside what others would write."""
