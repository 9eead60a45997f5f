"""The adapter: attached, refused where it can't be measured, its components and their branches found."""
