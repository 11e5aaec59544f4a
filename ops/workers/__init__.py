"""`sluice workers`: who serves which queue, among the workers that share them."""
