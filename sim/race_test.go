//go:build race

package sim_test

// few is how many releases most runs have: seven minutes. With the race detector everything takes five times as long.
const few = 2
