package sim_test

import (
	"os"
	"runtime/debug"
	"testing"
)

// Thousands of goroutines wait in a run; scanning their stacks is most of what a small heap costs.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
