//go:build race

package sim_test

import "time"

// With the race detector everything takes five times as long, so runs last less than three minutes. Waves of attacks
// begin with each period, and each release comes in one.
var releaseTimes = []time.Duration{20 * time.Second, 140 * time.Second}

const (
	wavePeriod = 2 * time.Minute
	waveTime   = 45 * time.Second
)
