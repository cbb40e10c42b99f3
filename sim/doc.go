// Package sim will run the real node in virtual time: many p2p.Nodes on a medium with latency, loss, partitions,
// sleep and wrong clocks, and a scale model of the same state machines to a million machines. It holds no rule
// of any protocol of its own: what it runs is announce.Catalog, fetch.Planner, the beacon's cell and the
// neighbour table of p2p, all of which take time as an argument for that reason.
//
// There is no simulator here yet. What is simulated so far lives in tests beside the machines themselves.
package sim
