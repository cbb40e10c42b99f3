//go:build !race

package sim_test

import "time"

// Runs last half an hour. Waves of attacks begin with each period, and each release comes in one.
var releaseTimes = []time.Duration{30 * time.Second, 330 * time.Second, 930 * time.Second, 1830 * time.Second}

const (
	wavePeriod = 5 * time.Minute
	waveTime   = time.Minute
)
