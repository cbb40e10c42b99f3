// Command lowmem stages, verifies and activates a release from a store: lowmem STORE IMAGE MANIFEST. It waits for a line on its input, so
// that its memory can be limited before.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"

	"github.com/ipfs/go-cid"

	"satchel/store"
	"satchel/store/image"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "lowmem:", err)
		os.Exit(1)
	}
}

func run(home, dir, name string) error {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	s, err := store.Open(home)
	if err != nil {
		return err
	}
	defer s.Close()
	im, err := image.Open(dir)
	if err != nil {
		return err
	}
	defer im.Close()
	c, err := cid.Decode(name)
	if err != nil {
		return err
	}
	m, err := s.Manifest(c)
	if err != nil {
		return err
	}
	r := image.Release{Product: m.Product, Epoch: m.Epoch, Seq: m.Seq, Version: m.Version, Manifest: c}
	d, err := im.Stage(context.Background(), image.Plan{Parts: []image.Part{{Release: r, Manifest: m}}}, s)
	if err != nil {
		return err
	}
	problems, err := im.Verify(context.Background(), d.ID, s, nil)
	if err != nil || len(problems) > 0 {
		return fmt.Errorf("%d problems: %w", len(problems), err)
	}
	return im.Activate(d.ID)
}
