package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"satchel/announce"
	"satchel/p2p"
	"satchel/store"
)

func newRecallCommand(e *env) *cobra.Command {
	var p publishing
	var to, epoch uint64
	cmd := &cobra.Command{
		Use:   "recall PRODUCT --to SEQ --key FILE",
		Short: "publish an older release's content under a newer number",
		Long: withExit(`Take a bad release back: publish the content of release SEQ again, as the next
release. Machines only ever go to a higher number, so this is how a whole fleet is
brought back. Who still has the content of SEQ fetches nothing.

The content must be in this home: the last three releases that were published here
are, also after "satchel prune". Otherwise publish the older tree again.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse, exitNotFound, exitInterrupted),
		Example:           "  satchel recall lessons --to 7 --key school.key\n  satchel recall xo-os --to 12 --key os.key --version 13.2.11-again --floor 14",
		Args:              exactly("PRODUCT"),
		ValidArgsFunction: e.completeProducts,
	}
	f := cmd.Flags()
	f.Uint64Var(&to, "to", 0, "number `SEQ` of the release whose content is wanted back")
	f.Uint64Var(&epoch, "epoch", 0, "epoch `N` of that release (default the trust root's)")
	f.StringVar(&p.version, "version", "", "`VERSION` to show to people (default that of SEQ)")
	f.StringArrayVar(&p.keyFiles, "key", nil, "private key `FILE` that signs; may be repeated")
	f.StringVar(&p.expires, "expires", "", "`TIME` for which the release may be urgent, as 36h or 7d (default for ever)")
	f.BoolVar(&p.urgent, "urgent", false, "may wake sleeping machines, where the trust root allows it")
	f.Uint64Var(&p.floor, "floor", 0, "machines may never go below the release `SEQ` again, also not by rollback")
	asJSON := jsonFlag(cmd)
	cmd.MarkFlagRequired("to")
	cmd.MarkFlagRequired("key")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if p.product, err = product(args[0]); err != nil {
			return err
		}
		p.asJSON, p.recall = *asJSON, true
		if p.version != "" {
			if err := announce.ValidVersion(p.version); err != nil {
				return badUsage("give --version with at most 64 printable bytes", "%w", err)
			}
		}
		if err := p.checkExpires(); err != nil {
			return err
		}
		if p.keys, err = e.readKeys(p.keyFiles); err != nil {
			return err
		}
		return e.withNode(cmd.Context(), func(s *session) error { return e.recall(cmd.Context(), s, &p, epoch, to) })
	}
	return cmd
}

func (e *env) recall(ctx context.Context, s *session, p *publishing, epoch, to uint64) error {
	began := time.Now()
	unlock, err := e.lockPublish(ctx, s.home)
	if err != nil {
		return err
	}
	defer unlock()
	next, err := s.Next(ctx, p.product)
	if err != nil {
		return err
	}
	if epoch > next.Epoch || to == 0 || (epoch == 0 || epoch == next.Epoch) && to+1 >= next.Seq {
		return advise(p2p.CodeNotFound, `"satchel status" shows the newest, from which one goes back`, fmt.Errorf("%s has no release %d to go back to", p.product, to))
	}
	if err := p.mayPublish(next); err != nil {
		return err
	}
	e.warnUrgent(p, next)
	past, err := s.Past(ctx, p.product, epoch, to)
	if err != nil {
		return err
	}
	m, err := cid.Decode(past.Manifest)
	if err != nil {
		return fmt.Errorf("reading the older release: %w", err)
	}
	if p.version == "" {
		p.version = past.Version
	}
	out, err := p.announce(ctx, s, next, next.Seq, &store.PublishResult{Manifest: m, ManifestSize: past.ManifestSize, TotalSize: past.TotalSize})
	if err != nil {
		return err
	}
	out.Seconds = time.Since(began).Seconds()
	if p.asJSON {
		return e.printJSON(out)
	}
	fmt.Fprintf(e.stdout, "recalled %s to %s: its content of epoch %d, seq %d is now epoch %d, seq %d\n", p.product, clean(out.Version), past.Epoch, past.Seq, out.Epoch, out.Seq)
	table(e.stdout, fmt.Sprintf("content\t%s, manifest %s", size(out.TotalSize), out.Manifest))
	e.hintUp(s)
	return nil
}
