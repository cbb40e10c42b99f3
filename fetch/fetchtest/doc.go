// Package fetchtest has stand-ins for what a fetch meets: neighbours in memory, and a small network in virtual time.
//
// [Network] runs many planners against each other, with bandwidth, latency and bad behaviour, in virtual time and in one
// goroutine: the same seed gives the same run. [Swarm] connects real sessions with real stores in one process.
package fetchtest
