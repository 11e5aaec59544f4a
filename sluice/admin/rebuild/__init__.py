"""`sluice rebuild`: a new generation of a projection beside the live one, compared, swapped, swapped back."""
