//go:build !race

package sim_test

// few is how many releases most runs have: half an hour.
const few = 4
