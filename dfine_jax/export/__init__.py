"""Programs for machines that are not this one."""
