package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

// switched is "apply --json" and "rollback --json".
type switched struct {
	Product string             `json:"product"`
	Live    p2p.ReleaseStatus  `json:"live"`
	Was     *p2p.ReleaseStatus `json:"was,omitempty"`
	Image   string             `json:"image"`
}

func newApplyCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply PRODUCT",
		Short: "make the ready release live",
		Long: withExit(`Make the newest release of a product, which is ready beside the live one, the
live one. The switch is one rename: whoever opens IMAGE/current gets the old tree
or the new one, never a mixture. The old one is kept for "satchel rollback". A
release of a system is tried at the next boot instead: see "satchel confirm".

Works with and without a running node, and without a network.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example:           "  satchel wait lessons && satchel apply lessons",
		Args:              exactly("PRODUCT"),
		ValidArgsFunction: e.completeProducts,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return e.switchLive(cmd.Context(), args[0], *asJSON, (*session).Apply)
	}
	return cmd
}

// switchLive applies or rolls back, and says what is live now.
func (e *env) switchLive(ctx context.Context, arg string, asJSON bool, do func(*session, context.Context, string) (p2p.ReleaseStatus, error)) error {
	name, err := product(arg)
	if err != nil {
		return err
	}
	return e.withNode(ctx, func(s *session) error {
		before, err := s.product(ctx, name)
		if err != nil {
			return err
		}
		live, err := do(s, ctx, name)
		if err != nil {
			return err
		}
		out := switched{Product: name, Live: live, Was: before.Live, Image: before.Image}
		if asJSON {
			return e.printJSON(out)
		}
		text := fmt.Sprintf("%s: %s is live in %s", name, releaseWords(&live), before.Image)
		if live.When == p2p.WhenBoot {
			text = fmt.Sprintf("%s: %s is tried at the next boot from %s", name, releaseWords(&live), before.Image)
		}
		if before.Live != nil && before.Live.Deployment == live.Deployment {
			text += ", as it was before"
		} else if before.Live != nil {
			text += ", before it was " + releaseWords(before.Live)
		}
		fmt.Fprintln(e.stdout, text)
		return nil
	})
}

// product is the status of one product; the zero status of a product that nobody knows.
func (s *session) product(ctx context.Context, name string) (p2p.ProductStatus, error) {
	st, err := s.Status(ctx)
	if err != nil {
		return p2p.ProductStatus{}, err
	}
	for _, p := range st.Products {
		if p.Product == name {
			return p, nil
		}
	}
	return p2p.ProductStatus{Product: name, State: p2p.StateNone}, nil
}
