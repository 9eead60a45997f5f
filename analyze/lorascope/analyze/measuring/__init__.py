"""From a run to measures by token and component: sources, tiles, tasks, schedulers."""
