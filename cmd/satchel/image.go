package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"satchel/p2p"
)

func newImageCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "see and keep the deployments of an image",
		Long: withExit(`An image directory holds any number of deployments: complete trees beside each
other, of which one is live. These verbs list, compare, keep and remove them, and
switch to any of them. With -R DIR they work on another disk's image, whatever
follows it.`, exitOK, exitUsage),
		Example: "  satchel image list\n  satchel -R /mnt/card image show",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return nil
		},
	}
	cmd.AddCommand(newImageListCommand(e), newImageShowCommand(e), newImageDiffCommand(e), newImageCloneCommand(e), newImageActivateCommand(e),
		newImageDestroyCommand(e), newImagePinCommand(e, true), newImagePinCommand(e, false),
		newImageMountCommand(e), newImageUmountCommand(e), newImagePolicyCommand(e))
	return cmd
}

// imageVerb is what the verbs of image have in common.
func imageVerb(e *env, cmd *cobra.Command, do func(cmd *cobra.Command, s *session, dir string, args []string) error) *cobra.Command {
	var flags imageFlags
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := flags.dir(e)
		if err != nil {
			return err
		}
		return e.withNode(cmd.Context(), func(s *session) error { return do(cmd, s, dir, args) })
	}
	return cmd
}

func newImageListCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list images and their deployments",
		Long: withExit(`List the images of this machine with their deployments, oldest first. The marks
are: N live now, R started with at the last boot, T tried at the next boot, P what
"satchel rollback" goes back to, K kept (pinned), F failed its trial here.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example: "  satchel image list",
		Args:    exactly(),
	}
	var flags imageFlags
	flags.add(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := flags.dir(e)
		if err != nil {
			return err
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			var all []p2p.ImageStatus
			if dir == "" {
				all, err = s.Images(cmd.Context())
			} else {
				var one p2p.ImageStatus
				one, err = s.Image(cmd.Context(), dir)
				all = []p2p.ImageStatus{one}
			}
			if err != nil {
				return err
			}
			if *asJSON {
				return e.printJSON(all)
			}
			if len(all) == 0 {
				fmt.Fprintln(e.stdout, "nothing is followed on this machine")
			}
			for i := range all {
				e.printImage(&all[i])
			}
			return nil
		})
	}
	return cmd
}

func (e *env) printImage(im *p2p.ImageStatus) {
	fmt.Fprintf(e.stdout, "%s: apply %s, follows %s\n", clean(im.Image), im.Policy, orNothing(im.Follows))
	if im.Error != "" {
		fmt.Fprintf(e.stdout, "  %s\n", clean(im.Error))
	}
	var rows []string
	for i := range im.Deployments {
		d := &im.Deployments[i]
		rows = append(rows, fmt.Sprintf("%-4s\t%s\t%s\t%s", marks(im, d), clean(d.ID), day(d.Created), releasesWords(d.Releases)))
	}
	table(e.stdout, rows...)
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}

// marks are the letters of a deployment in a list.
func marks(im *p2p.ImageStatus, d *p2p.DeploymentStatus) string {
	var b strings.Builder
	for _, m := range []struct {
		on     bool
		letter string
	}{{d.ID == im.Live, "N"}, {d.ID == im.Booted, "R"}, {d.ID == im.Trial, "T"}, {d.ID == im.Previous, "P"}, {d.Pinned, "K"}, {d.Failed, "F"}} {
		if m.on {
			b.WriteString(m.letter)
		}
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

func newImageShowCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show [DEPLOYMENT]",
		Short: "show what a deployment consists of",
		Long: withExit(`Show what the live deployment, or the one that is named, consists of: releases,
patches, and what of people's own changes was taken over into it.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example: "  satchel image show\n  satchel image show lessons-1-42-x7k2mzqa --image ~/lessons",
		Args:    atMost(1),
	}
	asJSON := jsonFlag(cmd)
	return imageVerb(e, cmd, func(cmd *cobra.Command, s *session, dir string, args []string) error {
		im, err := s.Image(cmd.Context(), dir)
		if err != nil {
			return err
		}
		id := im.Live
		if len(args) > 0 {
			id = args[0]
		}
		d, err := find(&im, id)
		if err != nil {
			return err
		}
		if *asJSON {
			return e.printJSON(d)
		}
		rows := []string{"deployment\t" + clean(d.ID), "marks\t" + marks(&im, d), "staged\t" + day(d.Created), "tree\t" + clean(d.Path)}
		for i := range d.Releases {
			r := &d.Releases[i]
			rows = append(rows, fmt.Sprintf("release\t%s %s, epoch %d, seq %d, manifest %s", r.Product, clean(r.Version), r.Epoch, r.Seq, r.Manifest))
		}
		if len(d.Patches) > 0 {
			rows = append(rows, "patches\t"+strings.Join(d.Patches, ", "))
		}
		for _, l := range d.Local {
			rows = append(rows, fmt.Sprintf("yours\t%s: %s", clean(l.Path), clean(l.What)))
		}
		table(e.stdout, rows...)
		return nil
	})
}

func find(im *p2p.ImageStatus, id string) (*p2p.DeploymentStatus, error) {
	i := slices.IndexFunc(im.Deployments, func(d p2p.DeploymentStatus) bool { return d.ID == id })
	switch {
	case i >= 0:
		return &im.Deployments[i], nil
	case id == "":
		return nil, advise(p2p.CodeNotFound, `"satchel apply" makes one live`, fmt.Errorf("nothing is live in %s", im.Image))
	}
	return nil, advise(p2p.CodeNotFound, `"satchel image list" names them`, fmt.Errorf("there is no deployment %q in %s", id, im.Image))
}

func newImageActivateCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "activate DEPLOYMENT",
		Short: "switch to any deployment",
		Long: withExit(`Make any deployment of an image live: content at once, a system at the next boot.
It needs no network. One below a floor that its publisher has set is refused.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse, exitNotFound),
		Example: "  satchel image activate lessons-1-41-b5qdvo3e --image ~/lessons",
		Args:    exactly("DEPLOYMENT"),
	}
	asJSON := jsonFlag(cmd)
	return imageVerb(e, cmd, func(cmd *cobra.Command, s *session, dir string, args []string) error {
		res, err := s.ActivateDeployment(cmd.Context(), dir, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return e.printJSON(res)
		}
		e.printChange(&res)
		return nil
	})
}

func newImageDestroyCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "destroy DEPLOYMENT",
		Short: "remove a deployment",
		Long: withExit(`Remove a deployment. What is live, tried, gone back to or pinned is refused. Blobs
that nothing else needs go with the next "satchel prune".`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example: "  satchel image destroy lessons-1-40-aaaaaaaa --image ~/lessons",
		Args:    exactly("DEPLOYMENT"),
	}
	return imageVerb(e, cmd, func(cmd *cobra.Command, s *session, dir string, args []string) error {
		if err := s.DestroyDeployment(cmd.Context(), dir, args[0]); err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "destroyed %s\n", clean(args[0]))
		return nil
	})
}

func newImageCloneCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clone DEPLOYMENT NAME",
		Short: "copy a deployment under a name",
		Long: withExit(`Copy a deployment under a name of your own, with the changes that people made in
it, to be kept or gone back to: before an experiment, say. On the same disk files
are shared.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example: "  satchel image clone lessons-1-41-b5qdvo3e before-the-fair --image ~/lessons",
		Args:    exactly("DEPLOYMENT", "NAME"),
	}
	return imageVerb(e, cmd, func(cmd *cobra.Command, s *session, dir string, args []string) error {
		if err := s.CloneImage(cmd.Context(), dir, args[0], args[1]); err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "%s is a copy of %s\n", clean(args[1]), clean(args[0]))
		return nil
	})
}

func newImagePinCommand(e *env, on bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "pin DEPLOYMENT",
		Short:   "keep a deployment from being pruned",
		Long:    withExit(`Keep a deployment until it is unpinned: neither prune nor destroy removes it.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example: "  satchel image pin lessons-1-41-b5qdvo3e",
		Args:    exactly("DEPLOYMENT"),
	}
	said := "kept until it is unpinned"
	if !on {
		cmd.Use, cmd.Short, cmd.Example = "unpin DEPLOYMENT", "let a deployment be pruned", "  satchel image unpin lessons-1-41-b5qdvo3e"
		cmd.Long = withExit(`Let a deployment that was pinned be pruned and destroyed again.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound)
		said = "no longer pinned"
	}
	return imageVerb(e, cmd, func(cmd *cobra.Command, s *session, dir string, args []string) error {
		if err := s.PinDeployment(cmd.Context(), dir, args[0], on); err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "%s: %s\n", clean(args[0]), said)
		return nil
	})
}

func newImageDiffCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff DEPLOYMENT [OTHER]",
		Short: "list what is different between two deployments",
		Long: withExit(`List the paths that were added, removed or changed on the way from one deployment
to the other, which is the live one when only one is named.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example: "  satchel image diff lessons-1-41-b5qdvo3e --image ~/lessons",
		Args:    cobra.RangeArgs(1, 2),
	}
	asJSON := jsonFlag(cmd)
	return imageVerb(e, cmd, func(cmd *cobra.Command, s *session, dir string, args []string) error {
		other := ""
		if len(args) > 1 {
			other = args[1]
		} else {
			im, err := s.Image(cmd.Context(), dir)
			if err != nil {
				return err
			}
			other = im.Live
		}
		list, err := s.DiffDeployments(cmd.Context(), dir, args[0], other)
		if err != nil {
			return err
		}
		if *asJSON {
			type change struct {
				Path string `json:"path"`
				What string `json:"what"`
			}
			out := []change{}
			for _, c := range list {
				out = append(out, change{c.Path, c.What})
			}
			return e.printJSON(out)
		}
		for _, c := range list {
			fmt.Fprintf(e.stdout, "%-8s %s\n", c.What, clean(c.Path))
		}
		return nil
	})
}

func newImageMountCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mount DEPLOYMENT DIR",
		Short: "show a deployment's tree at a directory, read-only",
		Long: withExit(`Show a deployment's tree at the directory DIR, read-only: a bind mount, which needs
root. "satchel image umount DIR" takes it away.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example: "  satchel image mount xo-os-1-41-b5qdvo3e /mnt --image /",
		Args:    exactly("DEPLOYMENT", "DIR"),
	}
	return imageVerb(e, cmd, func(cmd *cobra.Command, s *session, dir string, args []string) error {
		im, err := s.Image(cmd.Context(), dir)
		if err != nil {
			return err
		}
		d, err := find(&im, args[0])
		if err != nil {
			return err
		}
		if err := bindReadOnly(d.Path, args[1]); err != nil {
			return advise(p2p.CodeReadOnly, "give an empty directory, and do it as root", fmt.Errorf("mounting %s at %s: %w", d.ID, args[1], err))
		}
		fmt.Fprintf(e.stdout, "%s is at %s, read-only\n", clean(d.ID), clean(args[1]))
		return nil
	})
}

// bindReadOnly makes the mount read-only before anybody can see it where the kernel can, else a moment later.
func bindReadOnly(tree, at string) error {
	if err := unix.Mount(tree, at, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		unix.Unmount(at, 0)
		return err
	}
	return nil
}

func newImageUmountCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "umount DIR",
		Short:   "end what mount did",
		Long:    withExit(`Take away what "satchel image mount" put at the directory DIR.`, exitOK, exitFailure, exitUsage),
		Example: "  satchel image umount /mnt",
		Args:    exactly("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := unix.Unmount(args[0], unix.UMOUNT_NOFOLLOW); err != nil {
				return advise(p2p.CodeConflict, "close what is open below it, and do it as root", fmt.Errorf("unmounting %s: %w", args[0], err))
			}
			return nil
		},
	}
}

func newImagePolicyCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy ask|auto|never",
		Short: "say when releases are applied",
		Long: withExit(`Say when releases are applied to an image. ask: they are laid down beside the live
tree, and a person applies them. auto: they are applied as soon as they are ready,
content at once and a system at the next boot, unless a hold is on. never: they
are fetched and passed on, and laid down only by hand.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example:   "  satchel image policy auto --image ~/lessons",
		Args:      exactly("ask|auto|never"),
		ValidArgs: []string{p2p.PolicyAsk, p2p.PolicyAuto, p2p.PolicyNever},
	}
	return imageVerb(e, cmd, func(cmd *cobra.Command, s *session, dir string, args []string) error {
		if dir == "" {
			im, err := s.Image(cmd.Context(), "")
			if err != nil {
				return err
			}
			dir = im.Image
		}
		if err := s.SetPolicy(cmd.Context(), dir, args[0]); err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "%s: apply %s\n", clean(filepath.Clean(dir)), args[0])
		return nil
	})
}
