//go:build !linux

package beacon

// scan lists the interfaces that can carry multicast.
func scan() ([]link, error) { return scanPortable() }
