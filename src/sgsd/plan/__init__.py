"""What a run will take, before it is run: measured by its first steps, or by arithmetic for another machine."""
