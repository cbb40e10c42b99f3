package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"satchel/p2p"
	"satchel/p2p/control"
)

// downPatience is how long a node may take to stop.
const downPatience = 30 * time.Second

func newDownCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "stop the node",
		Long: withExit(`Stop the node that runs on this home, and wait until it has ended. Everything it
was doing goes on at the next "satchel up".`, exitOK, exitFailure, exitUsage, exitTimeout, exitNotFound),
		Example:           "  satchel down",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), downPatience, advise(p2p.CodeTimeout,
				"it may be busy with a slow disk: look at its log", fmt.Errorf("the node has not stopped after %v", downPatience)))
			defer cancel()
			s, err := e.dial(ctx)
			if errors.Is(err, control.ErrNotRunning) {
				home, _ := e.homeDir()
				return advise(p2p.CodeNotFound, "nothing to do; another home is chosen with --home", fmt.Errorf("no node is running on %q", home))
			}
			if err != nil {
				return err
			}
			defer s.Close()
			gone := exit(s.PID())
			if err := s.Down(ctx); err != nil {
				return err
			}
			if err := gone(ctx); err != nil {
				return err
			}
			fmt.Fprintln(e.stdout, "the node has stopped")
			return nil
		},
	}
}

// exit returns what waits for the end of a process. Call it while the process runs: a later one may get the same number.
func exit(pid int) (wait func(context.Context) error) {
	fd, err := unix.PidfdOpen(pid, 0)
	return func(ctx context.Context) error {
		ended := func() bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
		if err == nil {
			defer unix.Close(fd)
			ended = func() bool {
				n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
				return n > 0
			}
		}
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for !ended() {
			select {
			case <-again.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	}
}
