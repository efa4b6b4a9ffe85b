// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weirnet/weir/agent/config"
	"github.com/weirnet/weir/agent/install"
	"github.com/weirnet/weir/model"
)

// clusterFlags name the live cluster that is meant.
type clusterFlags struct {
	kubeconfig, context string
}

func (f *clusterFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "`file` that says how to reach the cluster (default: KUBECONFIG, or ~/.kube/config)")
	cmd.Flags().StringVar(&f.context, "context", "", "`name` of the cluster in the kubeconfig (default: the current one)")
}

// connect says what goes on by lines on stderr.
func (f *clusterFlags) connect(cmd *cobra.Command) (*install.Cluster, error) {
	return install.Connect(f.kubeconfig, f.context, func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) })
}

// configFlags are the agent's configuration, as a cluster's operator gives it.
// Only flags that are given change what is in force.
type configFlags struct {
	set    *pflag.FlagSet
	config config.Config

	excluded, nodePorts          []string
	answers, tunnel, algorithm   string
	externalIPs, hostPorts       string
	audits, pings, lifetimes     string
	repairs                      string
	deniedIngress, deniedEgress  string
	tables                       map[string]int
	reserved                     []uint
	excludedBlocks, nodePortNets []netip.Prefix
}

func (f *configFlags) register(cmd *cobra.Command) {
	f.set = cmd.Flags()
	f.set.BoolVar(&f.config.Masquerade, "masquerade", true, "give what leaves the cluster the node's address")
	f.set.StringSliceVar(&f.excluded, "masquerade-excluded", nil, "address `blocks` that are sent to without masquerading")
	f.set.StringSliceVar(&f.nodePorts, "node-port-addresses", nil, "address `blocks` of the nodes' addresses that answer on node ports (default: all of them)")
	f.set.StringVar(&f.externalIPs, "external-ips", "on", "which addresses Services may name as externalIPs: on (all but nodes'), off, or `blocks` with commas between them, which may hold nodes'")
	f.set.StringVar(&f.hostPorts, "host-ports", "on", "at which of a node's addresses host ports answer that name no hostIP: on (all of them, loopback too), off, or `blocks`")
	f.set.StringVar(&f.audits, "audit-annotations", "", "whose weir.net/policy-audit counts: pods, namespaces, policies or off, each with those after it (default: pods, which lift no policy of the whole cluster)")
	f.set.StringVar(&f.deniedIngress, "denied-ingress", "", "what a packet gets that a policy denies on its way in, where the policy's weir.net/denied-ingress does not say: drop, or refuse to tell its sender (default: drop)")
	f.set.StringVar(&f.deniedEgress, "denied-egress", "", "what one gets that is denied on its way out, as by --denied-ingress and weir.net/denied-egress (default: drop)")
	f.set.StringVar(&f.pings, "service-pings", "", "what becomes of pings of services' addresses: answer or drop (default: answer)")
	f.set.StringVar(&f.lifetimes, "flow-lifetimes", "", "how long flows may be idle, as in tcp-fin-wait=4m,udp=3m (default: those of docs/datapath.md)")
	f.set.Uint32Var(&f.config.Refusals, "refusals", 0, "how many resets and ICMP errors each endpoint's packets get in a second (default: 1000, which is the most)")
	f.set.StringVar(&f.repairs, "repair-interval", "", "how often the datapath's tables are compared with what they are to hold, and repaired, as in 5m, or off (default: 5m)")
	f.set.UintSliceVar(&f.reserved, "reserved-ports", nil, "TCP `ports` of the nodes that no service and no pod takes (default: those of etcd, the kubelet, the control plane and Weir)")
	f.set.StringVar(&f.answers, "lb-mode", "", "how answers of other nodes' backends reach clients: snat, dsr or hybrid (default: snat)")
	f.set.StringVar(&f.tunnel, "dsr-dispatch", "", "what carries packets to other nodes where --lb-mode needs it: ipip or geneve")
	f.renamed("return", "lb-mode")
	f.renamed("tunnel", "dsr-dispatch")
	f.set.StringVar(&f.algorithm, "algorithm", "", "how backends are chosen: random or maglev (default: random)")
	f.set.IntVar(&f.config.MaglevSize, "maglev-size", 0, "size of a Maglev table, a `prime` (default: 16381)")
	f.set.StringToIntVar(&f.tables, "tables", nil, "room of the datapath's tables, `name=entries` with commas between them: see 'weir status --tables' (default: those of docs/security.md)")
	f.set.StringSliceVar(&f.config.Devices, "devices", nil, "`names` of the nodes' uplinks (default: those that hold the node's addresses or a default route)")
	for _, name := range []string{"reserved-ports", "tables"} {
		f.set.Lookup(name).DefValue = "" // pflag would print [] beside what an empty one means
	}
	f.set.IntVar(&f.config.MTU, "mtu", 0, "`bytes` of an IP packet of a pod (default: as the uplinks')")
}

// renamed keeps a flag's old name, with a warning.
func (f *configFlags) renamed(old, now string) {
	flag := *f.set.Lookup(now)
	flag.Name, flag.Hidden, flag.Deprecated = old, true, "use --"+now
	f.set.AddFlag(&flag)
}

// parse reads what pflag has no type for.
func (f *configFlags) parse() error {
	var err error
	if f.excludedBlocks, err = addressBlocks("masquerade-excluded", f.excluded); err != nil {
		return err
	}
	if f.nodePortNets, err = addressBlocks("node-port-addresses", f.nodePorts); err != nil {
		return err
	}
	if f.config.ExternalIPs, err = model.ParseAllowed(f.externalIPs); err != nil {
		return usageError(fmt.Errorf("--external-ips: %w", err))
	}
	if f.config.HostPorts, err = model.ParseAllowed(f.hostPorts); err != nil {
		return usageError(fmt.Errorf("--host-ports: %w", err))
	}
	if f.config.FlowLifetimes, err = model.ParseLifetimes(f.lifetimes); err != nil {
		return usageError(fmt.Errorf("--flow-lifetimes: %w", err))
	}
	f.config.Tables = map[model.Table]int{}
	for name, entries := range f.tables {
		if now, renamed := model.FormerTables()[model.Table(name)]; renamed {
			fmt.Fprintf(f.set.Output(), "weir: --tables: %s is %s now\n", name, now)
			name = string(now)
		}
		f.config.Tables[model.Table(name)] = entries
	}
	f.config.ReservedPorts = nil
	for _, port := range f.reserved {
		if port < 1 || port > 65535 {
			return usageError(fmt.Errorf("--reserved-ports: %d is not in 1–65535", port))
		}
		f.config.ReservedPorts = append(f.config.ReservedPorts, uint16(port))
	}
	return nil
}

func addressBlocks(flag string, words []string) ([]netip.Prefix, error) {
	var blocks []netip.Prefix
	for _, word := range words {
		block, err := netip.ParsePrefix(word)
		if err != nil {
			return nil, usageError(fmt.Errorf("--%s: %q is not an address block like 10.0.0.0/8 or fd00::/16", flag, word))
		}
		blocks = append(blocks, block)
	}
	return blocks, nil
}

// change puts what was given over what is in force.
func (f *configFlags) change(c *config.Config) {
	for flag, put := range map[string]func(){
		"masquerade":          func() { c.Masquerade = f.config.Masquerade },
		"masquerade-excluded": func() { c.MasqueradeExcluded = f.excludedBlocks },
		"node-port-addresses": func() { c.NodePortAddresses = f.nodePortNets },
		"external-ips":        func() { c.ExternalIPs = f.config.ExternalIPs },
		"host-ports":          func() { c.HostPorts = f.config.HostPorts },
		"audit-annotations":   func() { c.AuditAnnotations = model.AuditAnnotations(f.audits) },
		"denied-ingress":      func() { c.DeniedIngress = model.Denial(f.deniedIngress) },
		"denied-egress":       func() { c.DeniedEgress = model.Denial(f.deniedEgress) },
		"service-pings":       func() { c.ServicePings = model.ServicePings(f.pings) },
		"flow-lifetimes":      func() { c.FlowLifetimes = f.config.FlowLifetimes },
		"refusals":            func() { c.Refusals = f.config.Refusals },
		"repair-interval":     func() { c.RepairInterval = config.Interval(f.repairs) },
		"reserved-ports":      func() { c.ReservedPorts = f.config.ReservedPorts },
		"lb-mode":             func() { c.Return = model.Return(f.answers) },
		"return":              func() { c.Return = model.Return(f.answers) }, // its old name
		"dsr-dispatch":        func() { c.Tunnel = model.Tunnel(f.tunnel) },
		"tunnel":              func() { c.Tunnel = model.Tunnel(f.tunnel) }, // its old name
		"algorithm":           func() { c.Algorithm = model.Algorithm(f.algorithm) },
		"maglev-size":         func() { c.MaglevSize = f.config.MaglevSize },
		"tables":              func() { c.Tables = f.config.Tables },
		"devices":             func() { c.Devices = f.config.Devices },
		"mtu":                 func() { c.MTU = f.config.MTU },
	} {
		if f.set.Changed(flag) {
			put()
		}
	}
}

type installFlags struct {
	clusterFlags
	configFlags
	options install.Options
	dryRun  bool
	format  string
}

func installCommand() *cobra.Command {
	var flags installFlags
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Bring Weir into a Kubernetes cluster, or change how it is there",
		Long: `Bring Weir into a Kubernetes cluster, or change how it is there.

The cluster has neither a CNI plugin nor kube-proxy, and its nodes have
podCIDRs. Permissions and the cluster are checked before anything is applied.
In a cluster that has Weir, what is not given stays as it is, and agents are
replaced one by one while connections go on.

Where another CNI plugin has connected pods, remove its daemon and kube-proxy
and give --take-over: the pods run on, and policies hold for them. Pods that
cannot be taken over are named, and need to be made anew.

The image has to be on the nodes, or where they can pull it: 'weir image'.`,
		Example: `  weir image -o weir.tar && kind load image-archive weir.tar &&
      weir install --wait
  weir image --push registry.example/weir:1 &&
      weir install --image registry.example/weir:1 --wait
  weir install --take-over --wait
  weir install --algorithm maglev --lb-mode dsr --wait
  weir install --dry-run -o yaml --api-server 192.0.2.1:6443 > weir.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	flags.clusterFlags.register(cmd)
	flags.configFlags.register(cmd)
	f, o := cmd.Flags(), &flags.options
	f.Var(imageName{&o.Image}, "image", "`reference` of the agent's image (default: the one in force, or "+install.DefaultImage+")")
	f.StringVar(&o.APIServer, "api-server", "", "`HOST:PORT` where nodes reach the API server (default: as the cluster says)")
	f.BoolVar(&o.TakeOver, "take-over", false, "take over the pods of a CNI plugin whose daemon is gone")
	f.BoolVar(&o.Wait, "wait", false, "wait until every node is ready")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "wait no longer than this")
	f.BoolVar(&o.Force, "force", false, "apply in spite of what the check of the cluster found")
	f.BoolVar(&flags.dryRun, "dry-run", false, "print what would be applied, and apply nothing")
	f.StringVarP(&flags.format, "output", "o", "yaml", "`format` of --dry-run: yaml")
	return cmd
}

func (f *installFlags) run(cmd *cobra.Command) error {
	if f.format != "yaml" {
		return usageError(fmt.Errorf("--output %s: there is only yaml", f.format))
	}
	if cmd.Flags().Changed("output") && !f.dryRun {
		return usageError(errors.New("--output says how --dry-run prints, and --dry-run is not given: the cluster would be changed"))
	}
	if err := f.configFlags.parse(); err != nil {
		return err
	}
	if address := f.options.APIServer; address != "" {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return usageError(fmt.Errorf("--api-server %s: it is HOST:PORT, an IPv6 address in brackets", address))
		}
	}
	f.options.Change = f.configFlags.change
	if f.dryRun && f.options.APIServer != "" && !f.reachable() {
		return f.printOffline(cmd)
	}
	cluster, err := f.connect(cmd)
	if err != nil {
		return err
	}
	manifest, err := cluster.Plan(cmd.Context(), f.options)
	if err != nil {
		return configError(err)
	}
	if f.dryRun {
		return manifest.WriteYAML(cmd.OutOrStdout())
	}
	return cluster.Install(cmd.Context(), manifest, f.options)
}

// reachable is whether somebody has said which cluster is meant: without, a
// dry run needs none.
func (f *installFlags) reachable() bool {
	return f.kubeconfig != "" || f.context != "" || os.Getenv("KUBECONFIG") != ""
}

func (f *installFlags) printOffline(cmd *cobra.Command) error {
	manifest, err := install.NewManifest(f.options)
	if err != nil {
		return configError(err)
	}
	return manifest.WriteYAML(cmd.OutOrStdout())
}

// configError is of usage when a choice of the operator's is wrong.
func configError(err error) error {
	if _, ok := errors.AsType[*model.FieldError](err); ok {
		return usageError(err)
	}
	return err
}

func uninstallCommand() *cobra.Command {
	var flags clusterFlags
	var options install.UninstallOptions
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take Weir out of a Kubernetes cluster, and leave its nodes clean",
		Long: `Take Weir out of a Kubernetes cluster, and leave its nodes clean.

Agents end, then each node loses Weir's programs, tables, devices, routes and
files, then its objects go. Pods of before have no network from then on, until
Weir is installed again. Kinds of policies that still have policies stay, unless
--policies is given. It may be interrupted and run again.`,
		Example: "  weir uninstall\n  weir uninstall --policies --timeout 2m",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := flags.connect(cmd)
			if err != nil {
				return err
			}
			return cluster.Uninstall(cmd.Context(), options)
		},
	}
	flags.register(cmd)
	f := cmd.Flags()
	f.Var(imageName{&options.Image}, "image", "`reference` of the image that cleans nodes (default: the one that was installed)")
	f.BoolVar(&options.Policies, "policies", false, "remove CiliumNetworkPolicies, CiliumClusterwideNetworkPolicies and ClusterNetworkPolicies too")
	f.DurationVar(&options.Timeout, "timeout", 2*time.Minute, "wait no longer than this for agents to end, and for nodes to be clean")
	return cmd
}
