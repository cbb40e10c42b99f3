//go:build !linux

package beacon

import "context"

// subscribe returns at once: watch polls instead.
func subscribe(context.Context, chan<- struct{}) {}
