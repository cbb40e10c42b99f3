package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"satchel/announce"
	"satchel/p2p"
	"satchel/p2p/control"
)

// env is what a verb has of the world.
type env struct {
	stdin     io.Reader
	stdout    io.Writer // results
	rawStdout io.Writer // the same, as it was given: is it a terminal?
	stderr    io.Writer // everything else
	home      string    // as given by --home
	otherRoot string    // as given by -R: the image directory of another disk

	began bool // the command line was right: errors from here on are not about usage
}

// output remembers the first error of writing, so that a result that reached nobody is not taken for one that did.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("writing the result: %w", err)
	}
	return n, err
}

// homeDir is the home, absolute.
func (e *env) homeDir() (string, error) {
	home := e.home
	if home == "" {
		home = os.Getenv("SATCHEL_HOME")
	}
	if home == "" {
		var err error
		if home, err = defaultHome(os.Geteuid()); err != nil {
			return "", err
		}
	}
	abs, err := filepath.Abs(home)
	if err != nil {
		return "", fmt.Errorf("finding the home %q: %w", home, err)
	}
	return abs, nil
}

func defaultHome(uid int) (string, error) {
	if uid == 0 {
		return "/var/lib/satchel", nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "satchel"), nil
	}
	user, err := os.UserHomeDir()
	if err != nil {
		return "", advise(p2p.CodeBadInput, "give --home DIR or set SATCHEL_HOME", fmt.Errorf("finding the user's directory: %w", err))
	}
	return filepath.Join(user, ".local", "share", "satchel"), nil
}

// openPatience is how long a verb waits for another one that has the home for a moment, or for a node that just starts.
const openPatience = 5 * time.Second

// session is a verb's access to its home's node, which runs in another process or is opened here.
type session struct {
	*control.Client
	home string
	node *p2p.Node // nil when it runs elsewhere
}

// open dials the node of the home; when none runs, it opens the home itself.
func (e *env) open(ctx context.Context) (*session, error) {
	home, err := e.homeDir()
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	late := time.After(openPatience)
	for {
		c, err := control.Dial(ctx, home)
		if err == nil {
			return &session{Client: c, home: home}, nil
		}
		if !errors.Is(err, control.ErrNotRunning) {
			return nil, err
		}
		node, err := p2p.Open(p2p.Config{Home: home, Version: versionText(), Log: newLog(e.stderr, slog.LevelWarn)})
		if err == nil {
			return &session{Client: control.Local(node), home: home, node: node}, nil
		}
		if p2p.CodeOf(err) != p2p.CodeInUse {
			return nil, err
		}
		select {
		case <-retry.C:
		case <-late:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// dial wants a node that runs.
func (e *env) dial(ctx context.Context) (*session, error) {
	home, err := e.homeDir()
	if err != nil {
		return nil, err
	}
	c, err := control.Dial(ctx, home)
	if err != nil {
		return nil, err
	}
	return &session{Client: c, home: home}, nil
}

func (s *session) Close() error {
	err := s.Client.Close()
	if s.node != nil {
		err = errors.Join(err, s.node.Close())
	}
	return err
}

// withNode runs f with a session.
func (e *env) withNode(ctx context.Context, f func(s *session) error) (err error) {
	s, err := e.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if c := s.Close(); err == nil {
			err = c
		}
	}()
	return f(s)
}

// printJSON writes one value as a line.
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// newLog logs for people: no date, since whoever keeps logs adds one.
func newLog(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.String("time", a.Value.Time().Format("15:04:05.000"))
		}
		return a
	}}))
}

// terminal says whether w is one, and how large.
func terminal(w io.Writer) (width, height int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 20 || height < 5 {
		width, height = 80, 24
	}
	return width, height, true
}

// jsonFlag adds the flag of the verbs that have a result for programs.
func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print the result as JSON, for programs")
}

// product checks a product's name from the command line.
func product(name string) (string, error) {
	if err := announce.ValidProduct(name); err != nil {
		return "", badUsage("a product is named like xo-os or lessons.maths", "%w", err)
	}
	return name, nil
}

// exactly is cobra.ExactArgs in words.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return fmt.Errorf("there is an argument too many: %q", args[len(names)])
		}
		return nil
	}
}

// someOf wants one argument or more.
func someOf(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s is missing", name)
		}
		return nil
	}
}

// atMost is cobra.MaximumNArgs in words.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return fmt.Errorf("there is an argument too many: %q", args[n])
		}
		return nil
	}
}

// completeProducts offers the products that the home knows.
func (e *env) completeProducts(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := e.dial(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	st, err := s.Status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []cobra.Completion
	for _, p := range st.Products {
		out = append(out, cobra.CompletionWithDesc(p.Product, p.State))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// required is cobra.Command.ValidateRequiredFlags in words.
func required(cmd *cobra.Command) error {
	var missing []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Annotations[cobra.BashCompOneRequiredFlag] != nil && !f.Changed {
			missing = append(missing, "--"+f.Name)
		}
	})
	switch n := len(missing); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%s is missing", missing[0])
	default:
		return fmt.Errorf("%s and %s are missing", strings.Join(missing[:n-1], ", "), missing[n-1])
	}
}
