package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newFollowCommand(e *env) *cobra.Command {
	var image string
	cmd := &cobra.Command{
		Use:   "follow PRODUCT --image DIR",
		Short: "keep an image directory on a product",
		Long: withExit(`Keep the image directory DIR on the newest release of a product. The node
fetches it and lays it down beside the live one; "satchel apply" makes it live:
DIR/current is then its tree. DIR is made when it is missing. On the disk that
has the home, files of the image and of the store share their space.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitInUse),
		Example:           "  satchel follow lessons --image ~/lessons\n  ls ~/lessons/current/",
		Args:              exactly("PRODUCT"),
		ValidArgsFunction: e.completeProducts,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := product(args[0])
			if err != nil {
				return err
			}
			if image == "" {
				return badUsage("give --image DIR", "the image directory has no name")
			}
			dir, err := filepath.Abs(image) // the node may run elsewhere
			if err != nil {
				return fmt.Errorf("finding the image directory: %w", err)
			}
			return e.withNode(cmd.Context(), func(s *session) error {
				if err := s.Follow(cmd.Context(), name, dir); err != nil {
					return err
				}
				fmt.Fprintf(e.stdout, "following %s in %s\n", name, dir)
				e.hintUp(s)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&image, "image", "", "`DIR` that gets the releases")
	cmd.MarkFlagRequired("image")
	cmd.MarkFlagDirname("image")
	return cmd
}

// hintUp reminds that nothing arrives without a node.
func (e *env) hintUp(s *session) {
	if !s.Running() {
		e.say("hint", "no node runs on this home yet: start one with \"satchel up\"")
	}
}
