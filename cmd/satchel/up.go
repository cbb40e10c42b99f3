package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/multiformats/go-multiaddr"
	"github.com/spf13/cobra"

	"satchel/p2p"
	"satchel/p2p/control"
)

func newUpCommand(e *env) *cobra.Command {
	var cfg p2p.Config
	var level, every string
	var stampKeys []string
	var onBus bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "run the node",
		Long: withExit(`Run the node of this home in the foreground, until SIGINT, SIGTERM or
"satchel down". It finds neighbours on every link by itself, also without a
router, remembers them, and keeps trying the peers given with --peer.

Once it listens it prints one line on the standard output and writes its full
addresses, one a line, to HOME/addrs. With --timestamp-key it signs a timestamp a
minute after it began and then every hour: a school's server does that, so that
laptops can tell whether they hear all the news. With --bus it is also
org.satchel.Updates1 on the D-Bus system bus, for desktops; it needs no bus to run.
Its log goes to the standard error.`, exitOK, exitFailure, exitUsage, exitInUse),
		Example: `  satchel up
  satchel up --listen /ip4/0.0.0.0/tcp/4242
  satchel up --timestamp-key clock.key
  satchel up --bus
  satchel up --no-discovery --peer "$(head -1 /srv/other/addrs)"`,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringArrayVar(&cfg.Listen, "listen", nil, "`MULTIADDR` to listen on; may be repeated (default every interface, any port)")
	f.StringArrayVar(&cfg.Peers, "peer", nil, "full `MULTIADDR` of a peer to stay connected to; may be repeated")
	f.BoolVar(&cfg.NoDiscovery, "no-discovery", false, "neither look for neighbours nor show up to them")
	f.BoolVar(&onBus, "bus", false, "speak to desktops on the D-Bus system bus, as org.satchel.Updates1")
	f.BoolVar(&cfg.QUIC, "quic", false, "speak QUIC as well as TCP")
	f.StringArrayVar(&stampKeys, "timestamp-key", nil, "private key `FILE` of the timestamp role, to sign timestamps with; may be repeated")
	f.StringVar(&every, "timestamp-every", "1h", "sign a timestamp this often, as 30m, 1h or 1d")
	f.StringVar(&level, "log-level", "info", "`LEVEL`: debug, info, warn or error")
	cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]cobra.Completion{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var l slog.Level
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return badUsage("it is debug, info, warn or error", "reading --log-level %q", level)
		}
		if err := checkAddrs(&cfg); err != nil {
			return err
		}
		var err error
		if cfg.TimestampEvery, err = parseSpan(every); err != nil {
			return badUsage("give it as 30m, 1h or 1d", "reading --timestamp-every %q: %w", every, err)
		}
		if cfg.TimestampKeys, err = e.readKeys(stampKeys); err != nil {
			return err
		}
		if cfg.Home, err = e.homeDir(); err != nil {
			return err
		}
		cfg.Version, cfg.Log = versionText(), newLog(e.stderr, l)
		return e.up(cmd.Context(), cfg, onBus)
	}
	return cmd
}

func checkAddrs(cfg *p2p.Config) error {
	for _, a := range cfg.Listen {
		if _, err := multiaddr.NewMultiaddr(a); err != nil {
			return badUsage("an address looks like /ip4/0.0.0.0/tcp/4242", "reading --listen %q: %w", a, err)
		}
	}
	for _, a := range cfg.Peers {
		m, err := multiaddr.NewMultiaddr(a)
		if err == nil {
			_, err = m.ValueForProtocol(multiaddr.P_P2P)
		}
		if err != nil {
			return badUsage("a peer's address ends in its id, as in /ip4/10.0.0.7/tcp/4242/p2p/12D3KooW…; take it from the other's HOME/addrs",
				"reading --peer %q: %w", a, err)
		}
	}
	return nil
}

// errDown is why a node stops that was told so over its socket.
var errDown = errors.New("satchel down")

// up runs the node until ctx ends or somebody says down.
func (e *env) up(ctx context.Context, cfg p2p.Config, onBus bool) (err error) {
	began := time.Now()
	node, err := openPatiently(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	ln, err := control.Listen(cfg.Home)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	if onBus {
		defer serveBus(ctx, node, cfg.Log)()
	}
	served := make(chan error, 1)
	go func() {
		err := control.Serve(ctx, ln, node, func() { stop(errDown) }, cfg.Log)
		stop(err) // without its socket a node cannot be asked or stopped
		served <- err
	}()
	running, leave := context.WithCancel(context.WithoutCancel(ctx))
	last := make(chan p2p.Status, 1)
	go func() {
		e.greet(ctx, node)
		<-ctx.Done()
		last <- node.Status() // while it still knows what it has moved
		leave()
	}()
	err = node.Run(running)
	stop(err)
	s := <-last
	err = errors.Join(err, <-served)
	if err == nil {
		e.say("stopped", fmt.Sprintf("%v, after %s: %s sent, %s received", lastWords(ctx), span(time.Since(began)),
			size(s.Node.BytesSent), size(s.Node.BytesReceived)))
	}
	return err
}

// openPatiently opens the home for a node. Another verb may have it for a moment; another node has it for long.
func openPatiently(ctx context.Context, cfg p2p.Config) (*p2p.Node, error) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	late := time.After(openPatience)
	for {
		node, err := p2p.Open(cfg)
		if p2p.CodeOf(err) != p2p.CodeInUse {
			return node, err
		}
		if c, dialed := control.Dial(ctx, cfg.Home); dialed == nil {
			c.Close()
			return nil, err
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

func lastWords(ctx context.Context) string {
	if cause := context.Cause(ctx); cause != nil {
		return cause.Error()
	}
	return "no reason"
}

// greet says once that the node listens.
func (e *env) greet(ctx context.Context, node *p2p.Node) {
	for {
		changed := node.Changed()
		if st := node.Status(); len(st.Node.Addrs) > 0 {
			more := ""
			if n := len(st.Node.Addrs) - 1; n > 0 {
				more = fmt.Sprintf(" and %s", count(n, "more address", "more addresses"))
			}
			fmt.Fprintf(e.stdout, "listening on %s%s\n", st.Node.Addrs[0], more)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
