package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

// imageFlags say which image a verb means.
type imageFlags struct{ image string }

func (f *imageFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.image, "image", "", "`DIR` of the image (default the one that is followed into, when there is one)")
	cmd.MarkFlagDirname("image")
	cmd.Annotations = map[string]string{takesRoot: "yes"}
}

// dir is the image that is meant, absolute, or empty for the only one: -R is the same, for another disk.
func (f *imageFlags) dir(e *env) (string, error) {
	name := f.image
	if e.otherRoot != "" {
		if name != "" && name != e.otherRoot {
			return "", badUsage("give one of them", "-R and --image name different directories")
		}
		name = e.otherRoot
	}
	if name == "" {
		return "", nil
	}
	dir, err := filepath.Abs(name) // the node may run elsewhere
	if err != nil {
		return "", fmt.Errorf("finding the image directory: %w", err)
	}
	return dir, nil
}

// changing is a verb that changes an image.
type changing struct {
	e      *env
	flags  imageFlags
	req    p2p.ChangeRequest
	asJSON *bool
	noWait bool
}

func (c *changing) run(ctx context.Context) (err error) {
	if c.req.Image, err = c.flags.dir(c.e); err != nil {
		return err
	}
	c.req.Wait, c.req.Other = !c.noWait, c.e.otherRoot != ""
	return c.e.withNode(ctx, func(s *session) error {
		if c.req.Image == "" && len(c.req.Products)+len(c.req.Install)+len(c.req.Remove) == 0 {
			return c.each(ctx, s)
		}
		return c.one(ctx, s, c.req)
	})
}

// each updates all images, one after the other, and goes on when one fails.
func (c *changing) each(ctx context.Context, s *session) error {
	images, err := s.Images(ctx)
	if err != nil {
		return err
	}
	if len(images) == 0 {
		return advise(p2p.CodeNotFound, `follow something first: "satchel follow PRODUCT --image DIR"`, fmt.Errorf("nothing is followed on this machine"))
	}
	var failed []error
	for _, im := range images {
		req := c.req
		req.Image = im.Image
		if err := c.one(ctx, s, req); err != nil {
			if len(images) == 1 || ctx.Err() != nil {
				return err
			}
			c.e.say("error", im.Image+": "+err.Error())
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return advise(p2p.CodeOf(failed[0]), p2p.HintOf(failed[0]), fmt.Errorf("%s of %d could not be updated", count(len(failed), "image", "images"), len(images)))
	}
	return nil
}

func (c *changing) one(ctx context.Context, s *session, req p2p.ChangeRequest) error {
	line := c.e.progressLine()
	res, err := s.Change(ctx, req, line.stick())
	line.clear()
	if err != nil {
		return err
	}
	if *c.asJSON {
		return c.e.printJSON(res)
	}
	c.e.printChange(&res)
	return nil
}

// printChange says what has become of an image.
func (e *env) printChange(res *p2p.ChangeResult) {
	now := releasesWords(res.Releases)
	switch res.When {
	case p2p.WhenNothing:
		fmt.Fprintf(e.stdout, "%s: %s is live, as it was before\n", clean(res.Image), now)
	case p2p.WhenAttached:
		fmt.Fprintf(e.stdout, "%s: attached; %s is live, and nothing was older\n", clean(res.Image), now)
	case p2p.WhenBoot:
		fmt.Fprintf(e.stdout, "%s: %s is tried at the next boot%s\n", clean(res.Image), now, wasWords(res.Was))
	default:
		fmt.Fprintf(e.stdout, "%s: %s is live%s\n", clean(res.Image), now, wasWords(res.Was))
	}
	for _, l := range res.Local {
		switch l.What {
		case "conflict":
			fmt.Fprintf(e.stdout, "  %s: yours was kept; the release's is beside it as %s.satchel-new\n", clean(l.Path), clean(filepath.Base(l.Path)))
		default:
			fmt.Fprintf(e.stdout, "  %s: %s\n", clean(l.Path), clean(l.What))
		}
	}
	for _, p := range res.Proof {
		fmt.Fprintf(e.stdout, "  equal, from the medium, to manifest %s\n", p)
	}
	for _, c := range res.Checks {
		if c.OK {
			fmt.Fprintf(e.stdout, "  health check %s passed\n", clean(c.Name))
		}
	}
}

func releasesWords(list []p2p.ReleaseStatus) string {
	var words []string
	for i := range list {
		words = append(words, fmt.Sprintf("%s %s (seq %d)", list[i].Product, clean(list[i].Version), list[i].Seq))
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}

func wasWords(list []p2p.ReleaseStatus) string {
	if len(list) == 0 {
		return ""
	}
	return "; before it was " + releasesWords(list)
}

func newUpdateCommand(e *env) *cobra.Command {
	c := &changing{e: e}
	cmd := &cobra.Command{
		Use:   "update [PRODUCT...]",
		Short: "bring images to the newest releases",
		Long: withExit(`Bring an image to the newest releases of what is in it: fetch what is not here
yet, lay a clone down beside the live tree, prove it from the medium, and switch.
Content is switched at once; a system is tried at the next boot, never rebooted
into by force. Until the switch every error leaves the live tree as it was, and
the clone is gone; content that fails its health checks is left again by itself.

Without PRODUCT and --image all images of this machine are updated. With -R DIR
it is the image on another disk, in a chroot or on a mounted card, whatever is
in it; nothing need be followed for that.

Works with and without a running node; without one, what is whole here is used.`, exitOK, exitFailure, exitUsage, exitTimeout, exitRefused, exitInUse, exitNotFound, exitInterrupted),
		Example:           "  satchel update\n  satchel update lessons\n  satchel -R /mnt/card update",
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: e.completeProducts,
	}
	c.flags.add(cmd)
	cmd.Flags().BoolVar(&c.noWait, "no-wait", false, "take what is whole here, and wait for nothing")
	cmd.Flags().BoolVar(&c.req.Again, "again", false, "also what failed its trial on this machine before")
	c.asJSON = jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, a := range args {
			name, err := product(a)
			if err != nil {
				return err
			}
			c.req.Products = append(c.req.Products, name)
		}
		return c.run(cmd.Context())
	}
	return cmd
}

func newInstallCommand(e *env) *cobra.Command {
	c := &changing{e: e}
	cmd := &cobra.Command{
		Use:   "install PRODUCT...",
		Short: "add products to an image",
		Long: withExit(`Add products to an image, and follow them there from now on (but not on another
disk, with -R): what "satchel
update" does, with more in it. No file may be in two products: then nothing is
changed, and the error names both. When something goes wrong after the switch,
the way back is prepared and said.`, exitOK, exitFailure, exitUsage, exitTimeout, exitRefused, exitInUse, exitNotFound, exitInterrupted),
		Example:           "  satchel install games --image ~/lessons\n  satchel -R /mnt/card install fonts",
		Args:              someOf("PRODUCT"),
		ValidArgsFunction: e.completeProducts,
	}
	c.flags.add(cmd)
	cmd.Flags().BoolVar(&c.noWait, "no-wait", false, "take what is whole here, and wait for nothing")
	c.asJSON = jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		c.req.Install, err = productNames(args)
		if err != nil {
			return err
		}
		return c.run(cmd.Context())
	}
	return cmd
}

func newUninstallCommand(e *env) *cobra.Command {
	c := &changing{e: e, noWait: true}
	cmd := &cobra.Command{
		Use:   "uninstall PRODUCT...",
		Short: "take products out of an image",
		Long: withExit(`Take products out of an image, and follow them there no longer. The rest stays
what it is. What the products declared as state stays on the disk.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse, exitNotFound),
		Example:           "  satchel uninstall games --image ~/lessons",
		Args:              someOf("PRODUCT"),
		ValidArgsFunction: e.completeProducts,
	}
	c.flags.add(cmd)
	c.asJSON = jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		c.req.Remove, err = productNames(args)
		if err != nil {
			return err
		}
		return c.run(cmd.Context())
	}
	return cmd
}

func newAttachCommand(e *env) *cobra.Command {
	c := &changing{e: e}
	cmd := &cobra.Command{
		Use:   "attach DIR",
		Short: "take in an image from elsewhere",
		Long: withExit(`Take in the image directory DIR that comes from another machine, as on a disk or
a card: compare what is in it with what this machine knows, update what is older,
and follow it from now on. When anything in it is newer than here, or has a patch
that is not here, nothing at all is changed, and the error names each. Patches of
the range 8xxxxx and products for bookkeeping do not count.

With --converge the image becomes exactly what a fresh machine would get, without
the changes that people made in it, and each manifest it was compared with is
named. Directories that releases declare as state are left alone even then.`, exitOK, exitFailure, exitUsage, exitTimeout, exitRefused, exitInUse, exitNotFound, exitInterrupted),
		Example: "  satchel attach /mnt/old-disk/lessons\n  satchel attach /mnt/old-disk/lessons --converge",
		Args:    exactly("DIR"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().BoolVar(&c.req.Converge, "converge", false, "make it exactly what a fresh machine would have")
	cmd.Flags().BoolVar(&c.noWait, "no-wait", false, "take what is whole here, and wait for nothing")
	c.asJSON = jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.flags.image, c.req.Attach = args[0], true
		return c.run(cmd.Context())
	}
	return cmd
}

func productNames(args []string) (names []string, err error) {
	for _, a := range args {
		name, err := product(a)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}
