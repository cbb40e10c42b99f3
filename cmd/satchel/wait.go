package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"satchel/p2p"
	"satchel/p2p/control"
)

func newWaitCommand(e *env) *cobra.Command {
	var seq uint64
	var state, timeout string
	cmd := &cobra.Command{
		Use:   "wait PRODUCT",
		Short: "wait until a release is ready, or active",
		Long: withExit(`Wait until the newest release of a product, or at least the one with --seq, is
ready: laid down beside the live one, or whole when the product is only carried.
With --state active, wait until it is live. Without --seq, a release must first
become known.`, exitOK, exitFailure, exitUsage, exitTimeout, exitInterrupted),
		Example: `  satchel wait lessons
  satchel wait lessons --seq 2 --timeout 10m && satchel apply lessons
  satchel wait lessons --state active`,
		Args:              exactly("PRODUCT"),
		ValidArgsFunction: e.completeProducts,
	}
	cmd.Flags().Uint64Var(&seq, "seq", 0, "number `N` of the release, or a newer one (default the newest)")
	cmd.Flags().StringVar(&state, "state", p2p.StateReady, "`STATE`: ready or active")
	cmd.Flags().StringVar(&timeout, "timeout", "", "`TIME` after which to give up, as 90s or 10m (default never)")
	cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]cobra.Completion{p2p.StateReady, p2p.StateActive}, cobra.ShellCompDirectiveNoFileComp))
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := product(args[0])
		if err != nil {
			return err
		}
		if state != p2p.StateReady && state != p2p.StateActive {
			return badUsage("it is ready or active", "reading --state %q", state)
		}
		ctx := cmd.Context()
		if timeout != "" {
			d, err := parseSpan(timeout)
			if err != nil {
				return badUsage("give it as 90s or 10m", "reading --timeout %q: %w", timeout, err)
			}
			late := advise(p2p.CodeTimeout, "", fmt.Errorf("waited %v", d))
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, d, late)
			defer cancel()
		}
		p, err := e.wait(ctx, name, seq, state)
		if err != nil {
			return err
		}
		if *asJSON {
			return e.printJSON(p)
		}
		r, is := waitedFor(&p)
		fmt.Fprintf(e.stdout, "%s: %s is %s\n", name, releaseWords(r), is)
		return nil
	}
	return cmd
}

// waitedFor is the release that fulfils a wait, and what it is.
func waitedFor(p *p2p.ProductStatus) (r *p2p.ReleaseStatus, is string) {
	switch {
	case p.Live != nil && p.Newest != nil && p.Live.Manifest == p.Newest.Manifest:
		return p.Live, p2p.StateActive
	case p.Ready != nil:
		return p.Ready, p2p.StateReady
	case p.Live != nil && p.State != p2p.StateHeld:
		return p.Live, p2p.StateActive
	}
	return p.Newest, p.State
}

// startPatience is how long wait gives a node that was just told to start.
const startPatience = 3 * time.Second

// wait asks the node that runs; without one it is only seen whether the state is there already.
func (e *env) wait(ctx context.Context, name string, seq uint64, state string) (p p2p.ProductStatus, err error) {
	s, err := e.open(ctx)
	if err != nil {
		return p, err
	}
	if !s.Running() {
		now, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		p, err = s.Wait(now, name, seq, state, nil)
		cancel()
		if s.Close(); err == nil {
			return p, nil
		}
		if s, err = e.dialPatiently(ctx); err != nil {
			if errors.Is(err, control.ErrNotRunning) {
				err = fmt.Errorf("waiting for %s: nothing will change: %w", name, err)
			}
			return p, err
		}
	}
	defer s.Close()
	line := e.progressLine()
	last := p2p.ProductStatus{Product: name, State: p2p.StateNone}
	p, err = s.Wait(ctx, name, seq, state, func(p p2p.ProductStatus) {
		last = p
		line.show("%s", productLine(&p))
	})
	line.clear()
	if p2p.CodeOf(err) == p2p.CodeTimeout {
		err = advise(p2p.CodeTimeout, fmt.Sprintf("\"satchel explain %s\" says why", name),
			fmt.Errorf("waiting for %s: it is not %s after the time given: %s", name, state, productLine(&last)))
	}
	return p, err
}

// dialPatiently waits a moment for a node, as in "satchel up & satchel wait lessons".
func (e *env) dialPatiently(ctx context.Context) (*session, error) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	late := time.After(startPatience)
	for {
		s, err := e.dial(ctx)
		if !errors.Is(err, control.ErrNotRunning) {
			return s, err
		}
		select {
		case <-again.C:
		case <-late:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
