"""The engine: two players, one step, one loop. It knows no plugin and no command."""
