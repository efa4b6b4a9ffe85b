// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Say what network policies allow, and what a change of them would",
		Long: `Say what network policies allow, and what a change of them would.

Policies are NetworkPolicy (networking.k8s.io/v1), ClusterNetworkPolicy
(policy.networking.k8s.io/v1alpha2), CiliumNetworkPolicy and
CiliumClusterwideNetworkPolicy (cilium.io/v2, addresses and ports). They are
read from manifests, with the Pods (their addresses in status.podIPs),
Namespaces and, where policies speak of them, Nodes, Services and
EndpointSlices. OBJECTS is a file of YAML or JSON, a folder of such, or - for
the standard input.`,
	}
	cmd.AddCommand(policyListCommand(), policyCheckCommand(), policyTableCommand(), policyDiffCommand())
	return cmd
}

// noAnswer makes an error end the process as one of the command line does:
// exit status 1 is an answer of some policy commands.
func noAnswer(err error) error {
	if err == nil {
		return nil
	}
	return usageError(err)
}

// readObjects reads files, and all manifests in folders.
func readObjects(in io.Reader, paths ...string) (*model.Objects, error) {
	all, from := model.NewObjects(), map[string]string{}
	var errs []error
	for _, path := range paths {
		files, err := manifestsIn(path)
		errs = append(errs, err)
		for _, file := range files {
			objs, err := readManifest(in, file, all)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, merge(all, objs, file, from))
		}
	}
	return all, errors.Join(errs...)
}

func manifestsIn(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	var files []string
	err := filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && (file == path || slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(file))) {
			files = append(files, file)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("read objects: folder %s has no file that ends in .yaml, .yml or .json", path)
	}
	return files, nil
}

func readManifest(in io.Reader, path string, others *model.Objects) (*model.Objects, error) {
	if path == "-" {
		return model.ParseBeside("standard input", in, others)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	defer file.Close()
	return model.ParseBeside(path, file, others)
}

// merge adds a file's objects, none of which may have been in another one.
func merge(all, objs *model.Objects, file string, from map[string]string) error {
	var errs []error
	for _, title := range objs.Titles() {
		if other, twice := from[title]; twice {
			errs = append(errs, fmt.Errorf("%s: %s is in %s too: remove one or give it another metadata.name", file, title, other))
		}
		from[title] = file
	}
	all.Merge(objs)
	return errors.Join(errs...)
}

// onOneNode gives the cluster with all pods on one node, which is where tables
// compare pods, and the state of that node.
func onOneNode(objs *model.Objects) (*model.Objects, *model.State, error) {
	together := objs.Clone()
	clear(together.Nodes)
	const name = "node"
	together.Nodes[name] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	local := model.Local{Devices: map[string]model.Device{}}
	for key, pod := range objs.Pods {
		pod = pod.DeepCopy()
		pod.Spec.NodeName = name
		together.Pods[key] = pod
		local.Devices[key] = model.Device{Name: "veth"}
	}
	state, _, err := model.Compile(together, name, local)
	return together, state, err
}

// doubts are what the objects' own nodes say of them: an error where a datapath
// would refuse an object, and warnings of what is hardly meant. Two nodes are
// asked, one of which sees any node as another.
func doubts(objs *model.Objects) ([]model.Warning, error) {
	placed := objs.Clone()
	if len(placed.Nodes) == 0 {
		placed.Nodes["node"] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	}
	nodes := slices.Sorted(maps.Keys(placed.Nodes))
	// Pods as people write them have no address, and their labels count all
	// the same.
	standIn := netip.MustParseAddr("240.0.0.1")
	for _, key := range slices.Sorted(maps.Keys(objs.Pods)) {
		pod := objs.Pods[key].DeepCopy()
		if placed.Nodes[pod.Spec.NodeName] == nil {
			pod.Spec.NodeName = nodes[0]
		}
		if pod.Status.PodIP == "" && len(pod.Status.PodIPs) == 0 {
			pod.Status.PodIP = standIn.String()
			standIn = standIn.Next()
		}
		placed.Pods[key] = pod
	}
	var all []model.Warning
	for _, node := range nodes[:min(2, len(nodes))] {
		local := model.Local{Devices: map[string]model.Device{}, Uplinks: []model.Uplink{{Name: "eth0", Ifindex: 1}}}
		for key := range placed.Pods {
			local.Devices[key] = model.Device{Name: "veth"}
		}
		_, warnings, err := model.Compile(placed, node, local)
		if err != nil {
			return nil, err
		}
		for _, w := range warnings {
			if !slices.Contains(all, w) {
				all = append(all, w)
			}
		}
	}
	return all, nil
}

func tellWarnings(out io.Writer, warnings []model.Warning) {
	for _, w := range warnings {
		fmt.Fprintln(out, "weir: warning:", w)
	}
}

// policyPort is a port and its protocol, as 80/tcp. ICMP has none.
type policyPort struct {
	port     uint16
	protocol model.Protocol
}

func (p policyPort) String() string {
	if p.protocol == model.ProtocolICMP {
		return p.protocol.String()
	}
	return fmt.Sprintf("%d/%s", p.port, p.protocol)
}

func parsePolicyPort(text string) (policyPort, error) {
	if strings.EqualFold(text, "icmp") {
		return policyPort{protocol: model.ProtocolICMP}, nil
	}
	digits, name, found := strings.Cut(text, "/")
	if !found {
		name = "tcp"
	}
	protocols := map[string]model.Protocol{"tcp": model.ProtocolTCP, "udp": model.ProtocolUDP, "sctp": model.ProtocolSCTP}
	protocol, known := protocols[strings.ToLower(name)]
	number, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || number == 0 || !known {
		return policyPort{}, usageError(fmt.Errorf("port %q: give a number and a protocol, as 80/tcp, 53/udp, 9/sctp, or icmp", text))
	}
	return policyPort{uint16(number), protocol}, nil
}

// findParty brings a name that a person gives to the form in which the model
// knows it: an address, namespace/pod or the name of a node.
func findParty(objs *model.Objects, text string) (string, error) {
	if _, err := netip.ParseAddr(text); err == nil {
		return text, nil
	}
	names := []string{text, "default/" + text}
	if dot := strings.LastIndexByte(text, '.'); dot > 0 && !strings.Contains(text, "/") {
		names = append(names, text[dot+1:]+"/"+text[:dot])
	}
	for _, name := range names {
		if objs.Pods[name] != nil {
			return name, nil
		}
	}
	if node := strings.TrimPrefix(text, "node/"); objs.Nodes[node] != nil {
		return node, nil
	}
	have := slices.Sorted(maps.Keys(objs.Pods))
	const most = 10
	if len(have) > most {
		have = append(have[:most], "…")
	}
	return "", fmt.Errorf("there is no pod %q among the objects: name one as POD.NAMESPACE or NAMESPACE/POD, or give an address; there are %s", text, strings.Join(have, ", "))
}

// policyPod is a pod that policies are about.
type policyPod struct {
	name      string
	addresses []netip.Addr
}

// policyPods are all that have an address of their own, by name.
func policyPods(objs *model.Objects, warn io.Writer) []policyPod {
	var pods []policyPod
	for _, name := range slices.Sorted(maps.Keys(objs.Pods)) {
		pod := objs.Pods[name]
		p := policyPod{name: name}
		for _, ip := range pod.Status.PodIPs {
			if addr, err := netip.ParseAddr(ip.IP); err == nil {
				p.addresses = append(p.addresses, addr)
			}
		}
		if addr, err := netip.ParseAddr(pod.Status.PodIP); err == nil && len(p.addresses) == 0 {
			p.addresses = []netip.Addr{addr}
		}
		switch {
		case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		case pod.Spec.HostNetwork:
			fmt.Fprintf(warn, "weir: Pod %s is left out: it is on the host's network, and no policy selects it\n", name)
		case len(p.addresses) == 0:
			fmt.Fprintf(warn, "weir: Pod %s is left out: it has no address: give it status.podIPs\n", name)
		default:
			pods = append(pods, p)
		}
	}
	return pods
}

// errNoPods is an answer that would say nothing.
var errNoPods = errors.New("there is no pod with an address among the objects: give the Pods too, with status.podIPs, on both sides of a comparison")

// addressesOf are those of a pod, a node or an address.
func addressesOf(objs *model.Objects, name string) []netip.Addr {
	var texts []string
	switch pod, node := objs.Pods[name], objs.Nodes[name]; {
	case pod != nil:
		texts = append(texts, pod.Status.PodIP)
		for _, ip := range pod.Status.PodIPs {
			texts = append(texts, ip.IP)
		}
	case node != nil:
		for _, a := range node.Status.Addresses {
			texts = append(texts, a.Address)
		}
	default:
		texts = []string{name}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// namesBlocks is whether a policy names blocks that hold pods.
func namesBlocks(objs *model.Objects) bool {
	for _, policy := range objs.NetworkPolicies {
		var peers []networkingv1.NetworkPolicyPeer
		for _, rule := range policy.Spec.Ingress {
			peers = append(peers, rule.From...)
		}
		for _, rule := range policy.Spec.Egress {
			peers = append(peers, rule.To...)
		}
		if slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool { return p.IPBlock != nil }) {
			return true
		}
	}
	for _, policy := range objs.ClusterNetworkPolicies {
		for _, rule := range policy.Spec.Egress {
			if slices.ContainsFunc(rule.To, func(p policyv1alpha2.ClusterNetworkPolicyEgressPeer) bool { return len(p.Networks) > 0 }) {
				return true
			}
		}
	}
	return false
}

// of is the pod with its addresses of one family alone.
func (p *policyPod) of(family string) *policyPod {
	return &policyPod{p.name, slices.DeleteFunc(slices.Clone(p.addresses), func(a netip.Addr) bool { return a.Is4() != (family == familyIPv4) })}
}

// withFamily are the pods that have addresses of a family, with these alone.
func withFamily(pods []policyPod, family string) []policyPod {
	var found []policyPod
	for i := range pods {
		if p := pods[i].of(family); len(p.addresses) > 0 {
			found = append(found, *p)
		}
	}
	return found
}

const familyIPv4, familyIPv6 = "ipv4", "ipv6"

// meeting gives addresses of two pods by which they could talk.
func meeting(from, to *policyPod) (src, dst netip.Addr, ok bool) {
	for _, src := range from.addresses {
		for _, dst := range to.addresses {
			if src.Is4() == dst.Is4() {
				return src, dst, true
			}
		}
	}
	return src, dst, false
}
