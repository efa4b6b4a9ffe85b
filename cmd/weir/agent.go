// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent"
	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/cni"
	"github.com/weirnet/weir/agent/config"
	"github.com/weirnet/weir/agent/identity"
	"github.com/weirnet/weir/agent/watch"
)

// agentFlags are those of the agent itself.
type agentFlags struct {
	node, kubeconfig, metrics string
	paths                     agent.Paths
	verbose                   bool
	unused                    time.Duration
}

func agentCommand() *cobra.Command {
	var flags agentFlags
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Keep a node's datapath equal to its cluster, connect its pods",
		Long: `Keep a node's datapath equal to its cluster, connect its pods.

There is one on every node, with the node's network and as root: 'weir install'
starts them. When it ends, the datapath goes on as it was.`,
		Example: "  weir agent --node $(hostname) --kubeconfig /etc/kubernetes/admin.conf",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	paths := agent.DefaultPaths()
	cmd.Flags().StringVar(&flags.node, "node", os.Getenv("NODE_NAME"), "the node's name in the cluster")
	cmd.Flags().StringVar(&flags.kubeconfig, "kubeconfig", "", "file that says how to reach the API server (default: the account of the agent's pod)")
	cmd.Flags().StringVar(&flags.paths.StateDir, "state-dir", paths.StateDir, "where it is kept what pods have, over reboots too")
	cmd.Flags().StringVar(&flags.paths.RunDir, "run-dir", paths.RunDir, "where the socket agent.sock is")
	cmd.Flags().StringVar(&flags.paths.Pins, "pin-path", paths.Pins, "the directory in which the datapath is pinned, on a bpffs")
	cmd.Flags().StringVar(&flags.paths.NetDir, "cni-conf-dir", paths.NetDir, "where the runtime looks for network configurations; empty: none is written")
	cmd.Flags().StringVar(&flags.paths.Config, "config", paths.Config, "file with the operator's choices")
	cmd.Flags().StringVar(&flags.paths.HostRoot, "host-root", paths.HostRoot, "the root directory of the node, to find its cgroups by; empty: its own sockets are left to packets")
	cmd.Flags().StringVar(&flags.metrics, "metrics", "127.0.0.1:9879", "where metrics and probes are answered; empty: nowhere")
	cmd.Flags().DurationVar(&flags.unused, "identity-unused", identity.DefaultUnused, "how long labels are without pods before their identity is free; also by "+envUnused)
	cmd.Flags().BoolVar(&flags.verbose, "verbose", false, "tell of every change")
	cmd.AddCommand(agentInstallCNICommand(), agentStatusCommand(), agentCleanupCommand())
	return cmd
}

const envUnused = "WEIR_IDENTITY_UNUSED"

// readUnused takes from the environment what no flag says.
func (f *agentFlags) readUnused(cmd *cobra.Command) (err error) {
	text := os.Getenv(envUnused)
	if text == "" || cmd.Flags().Changed("identity-unused") {
		return nil
	}
	if f.unused, err = time.ParseDuration(text); err != nil {
		return usageError(fmt.Errorf("read %s: %w: write it as 10m", envUnused, err))
	}
	return nil
}

func (f *agentFlags) run(cmd *cobra.Command) error {
	if f.node == "" {
		return usageError(errors.New("which node is this? Name it by --node, or by NODE_NAME in the environment"))
	}
	choices, err := config.Read(f.paths.Config)
	if err != nil {
		return err
	}
	if err := f.readUnused(cmd); err != nil {
		return err
	}
	clients, err := watch.Connect(f.kubeconfig)
	if err != nil {
		return err
	}
	recorder := clients.NewRecorder(f.node)
	defer recorder.Close()
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	for _, warning := range choices.Warnings() {
		log.Warn("the configuration has former names", "warning", warning)
	}
	return agent.Run(cmd.Context(), agent.Options{
		Node: f.node, Version: thisBuild().Version, Paths: f.paths, Config: choices, Metrics: f.metrics,
		Log: log,
		Source: func(changed func()) (agent.Source, error) {
			return watch.New(clients.Typed, clients.Dynamic, changed)
		},
		Identities: func(changed func(), report func(error)) (agent.Identities, error) {
			return identity.New(identity.Options{Node: f.node, Client: clients.Dynamic, Unused: f.unused, Changed: changed, Report: report})
		},
		Events: agent.Tell(recorder),
	})
}

// isPlugin says whether a container runtime runs this as its network plugin.
func isPlugin() bool { return os.Getenv("CNI_COMMAND") != "" }

func runPlugin() { cni.Main(thisBuild().Version) }

func agentInstallCNICommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "install-cni",
		Short:   "Put this binary where the runtime looks for network plugins",
		Example: "  weir agent install-cni --bin-dir /host/opt/cni/bin",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := installCNI(dir); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is there\n", filepath.Join(dir, cni.Type))
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "bin-dir", "/opt/cni/bin", "the directory of network plugins")
	return cmd
}

// installCNI replaces the plugin by one rename: it may run at any moment.
func installCNI(dir string) (err error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("open this binary: %w", err)
	}
	defer self.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory of network plugins: %w", err)
	}
	f, err := os.CreateTemp(dir, "."+cni.Type+"-")
	if err != nil {
		return fmt.Errorf("install network plugin: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("install network plugin: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = io.Copy(f, self)
	if err := errors.Join(err, f.Chmod(0o755), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, cni.Type))
}

// socketFlags are those of commands that ask the agent of this node.
type socketFlags struct {
	vmOutput
	socket string
}

func (f *socketFlags) register(cmd *cobra.Command) {
	f.vmOutput.register(cmd)
	cmd.Flags().StringVar(&f.socket, "socket", api.DefaultSocket, "the socket of this node's agent")
}

// client refuses an unknown format before anything is asked.
func (f *socketFlags) client() (*api.Client, error) {
	if f.format != "table" && f.format != "json" {
		return nil, usageError(fmt.Errorf("--output %s: there is only table and json", f.format))
	}
	return api.NewClient(f.socket), nil
}

func agentStatusCommand() *cobra.Command {
	var flags socketFlags
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show how the agent of this node is",
		Example: "  weir agent status\n  weir agent status -o json | jq .refused",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			var s api.Status
			if err := client.Get(cmd.Context(), api.PathStatus, &s); err != nil {
				return err
			}
			if flags.format == "json" {
				err = vmPrint(flags.vmOutput, cmd.OutOrStdout(), "", []api.Status{s}, nil)
			} else {
				err = printAgentStatus(cmd.OutOrStdout(), &s)
			}
			if err == nil && (!s.Ready || len(s.Errors) > 0) {
				return &exitError{code: exitFailed}
			}
			return err
		},
	}
	flags.register(cmd)
	return cmd
}

func printAgentStatus(w io.Writer, s *api.Status) error {
	ready := "ready"
	if !s.Ready {
		ready = "not ready: " + s.NotReady
	}
	var blocks []string
	for _, prefix := range s.PodCIDRs {
		blocks = append(blocks, prefix.String())
	}
	lines := []string{
		fmt.Sprintf("node        %s, %s", s.Node, ready),
		fmt.Sprintf("version     %s, kernel %s, attached by %s", s.Version, s.Kernel, s.Attachment),
		fmt.Sprintf("network     podCIDRs %s, uplinks %s, MTU %d", dash(strings.Join(blocks, ", ")), dash(strings.Join(s.Uplinks, ", ")), s.MTU),
		fmt.Sprintf("endpoints   %d, in the datapath %d", s.Endpoints.Known, s.Endpoints.Ready),
		fmt.Sprintf("objects     %d: %d frontends, %d identities, %d policies", s.Objects, s.Services, s.Identities, s.Policies),
		fmt.Sprintf("applied     %d times, %d failed; last %s, in %.1f ms, epoch %d", s.Apply.Count, s.Apply.Failed, s.Apply.Last.Format("15:04:05"), 1000*s.Apply.Seconds, s.Apply.Epoch),
		fmt.Sprintf("repaired    %s", repairText(&s.Repair)),
	}
	for i := range s.Repair.Tables {
		lines = append(lines, "repaired    "+s.Repair.Tables[i].String())
	}
	for _, r := range append(slices.Clone(s.Refused), s.Ignored...) {
		what := "refused    "
		switch {
		case r.Ignored:
			what = "ignored    "
		case r.FieldOnly:
			what = "claim lost "
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s", what, r.Place(), r.Problem))
	}
	for _, e := range s.Errors {
		lines = append(lines, fmt.Sprintf("error       %s: %s", e.What, e.Error))
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

// repairText tells of the last comparison of tables.
func repairText(r *api.Repair) string {
	switch repaired := r.Repaired(); {
	case r.Last.IsZero():
		return "never: the tables have not been compared yet"
	case repaired == 0:
		return fmt.Sprintf("nothing; last %s, in %.1f s, %d entries compared", r.Last.Format("15:04:05"), r.Seconds, r.Compared)
	default:
		return fmt.Sprintf("%d entries; last %s, in %.1f s, %d entries compared", repaired, r.Last.Format("15:04:05"), r.Seconds, r.Compared)
	}
}

func agentCleanupCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove everything that an agent has left on this node",
		Long: `Remove everything that an agent has left on this node: the datapath, pods'
devices, routes, the plugin and its configuration, and the recorded state.

Pods of the node lose their network: it is for a node that gets another one.`,
		Example: "  weir agent cleanup --host-root /host",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return agent.Cleanup(agent.Below(root), func(what string) { fmt.Fprintln(cmd.OutOrStdout(), what) })
		},
	}
	cmd.Flags().StringVar(&root, "host-root", "/", "where the node's root directory is")
	return cmd
}
