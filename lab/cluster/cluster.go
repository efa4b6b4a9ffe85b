// SPDX-License-Identifier: Apache-2.0

// Package cluster makes Kubernetes clusters in containers of this machine, for
// trying Weir on them: without a CNI plugin and without kube-proxy, since Weir
// is both, or with Kubernetes' own, which Weir is compared with. It is not for speed, nor for anything that has to last.
//
// Its tests are those of a live cluster, whoever made it: they run where
// WEIR_CLUSTER_TEST names the image to install (make cluster-test).
//
// Its one invariant: a cluster that could not be made leaves nothing.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	kind "sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cmd"
)

// DefaultName is a cluster's name where nobody gives another.
const DefaultName = "weir"

// ErrNoDocker is of a machine on which no cluster can be made.
var ErrNoDocker = errors.New("there is no docker here, or its daemon does not answer: install and start docker, or use a cluster that exists by its kubeconfig")

// ErrExists is of a name that is taken.
var ErrExists = errors.New("a cluster of that name exists: take it down first, or choose another name")

// Family is the IP family of a cluster's nodes, pods and services.
type Family string

// Families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
	Dual Family = "dual"
)

// Options describe a cluster. The zero Options are of one node, of IPv4.
type Options struct {
	Name   string
	Nodes  int // with the control plane
	Family Family
	// Network is what moves its packets; empty: NetworkWeir.
	Network Network
	// Image of the nodes; empty: the one of the release of kind that Weir is
	// built with.
	Image string
	// Kubeconfig is the file that learns how the cluster is reached; empty:
	// KUBECONFIG's, or ~/.kube/config.
	Kubeconfig string
}

// names as the nodes' host names may begin.
var names = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// Validate says what is wrong with the options.
func (o *Options) Validate() error {
	if o.Name != "" && !names.MatchString(o.Name) {
		return fmt.Errorf("name %q is no DNS label: use letters a-z, digits and dashes", o.Name)
	}
	if o.Nodes < 0 {
		return fmt.Errorf("%d nodes are less than one", o.Nodes)
	}
	if families := []Family{"", IPv4, IPv6, Dual}; !slices.Contains(families, o.Family) {
		return fmt.Errorf("IP family %q is unknown: use %s, %s or %s", o.Family, IPv4, IPv6, Dual)
	}
	if networks := []Network{"", NetworkWeir, NetworkReference}; !slices.Contains(networks, o.Network) {
		return fmt.Errorf("network %q is unknown: use %s or %s", o.Network, NetworkWeir, NetworkReference)
	}
	return nil
}

// config is what o says, in kind's words.
func (o *Options) config() *v1alpha4.Cluster {
	c := &v1alpha4.Cluster{
		TypeMeta: v1alpha4.TypeMeta{Kind: "Cluster", APIVersion: "kind.x-k8s.io/v1alpha4"},
		Networking: v1alpha4.Networking{
			DisableDefaultCNI: true,
			KubeProxyMode:     "none",
			IPFamily:          v1alpha4.ClusterIPFamily(o.Family),
		},
		Nodes: []v1alpha4.Node{{Role: v1alpha4.ControlPlaneRole, Image: o.Image}},
	}
	if o.Network == NetworkReference {
		c.Networking.KubeProxyMode = v1alpha4.NFTablesProxyMode
	}
	for len(c.Nodes) < o.Nodes {
		c.Nodes = append(c.Nodes, v1alpha4.Node{Role: v1alpha4.WorkerRole, Image: o.Image})
	}
	return c
}

// provider fails with ErrNoDocker.
func provider(ctx context.Context) (*kind.Provider, error) {
	if out, err := exec.CommandContext(ctx, "docker", "info", "--format", "{{.ServerVersion}}").CombinedOutput(); err != nil {
		if said := strings.TrimSpace(string(out)); said != "" {
			return nil, fmt.Errorf("%w (%s)", ErrNoDocker, said)
		}
		return nil, fmt.Errorf("%w (%w)", ErrNoDocker, err)
	}
	return kind.NewProvider(kind.ProviderWithLogger(cmd.NewLogger()), kind.ProviderWithDocker()), nil
}

// Up makes a cluster whose API answers. Its nodes are not ready before a CNI
// plugin is installed, which it does for NetworkReference. It fails with ErrNoDocker, ErrExists.
func Up(ctx context.Context, o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	p, err := provider(ctx)
	if err != nil {
		return err
	}
	name := nameOr(o.Name)
	there, err := p.List()
	if err != nil {
		return fmt.Errorf("list clusters: %w", err)
	}
	if slices.Contains(there, name) {
		return fmt.Errorf("make cluster %s: %w", name, ErrExists)
	}
	made := make(chan error, 1)
	go func() {
		made <- p.Create(name, kind.CreateWithV1Alpha4Config(o.config()), kind.CreateWithKubeconfigPath(o.Kubeconfig),
			kind.CreateWithDisplayUsage(false), kind.CreateWithDisplaySalutation(false))
	}()
	select {
	case err = <-made:
	case <-ctx.Done():
		// kind cannot be interrupted: what it made so far is removed under it,
		// which makes it fail, and again when it has.
		deleted := p.Delete(name, o.Kubeconfig)
		<-made
		return errors.Join(ctx.Err(), deleted, p.Delete(name, o.Kubeconfig))
	}
	if err == nil && o.Network == NetworkReference {
		err = connect(ctx, p, name)
		if err != nil {
			err = errors.Join(err, p.Delete(name, o.Kubeconfig))
		}
	}
	if err != nil {
		return fmt.Errorf("make cluster %s: %w", name, err)
	}
	return nil
}

// connect gives a cluster the reference network.
func connect(ctx context.Context, p *kind.Provider, name string) error {
	nodes, err := p.ListInternalNodes(name)
	if err != nil {
		return fmt.Errorf("list its nodes: %w", err)
	}
	return refer(ctx, nodes)
}

// Down removes a cluster; one that is not there is removed already.
func Down(ctx context.Context, name, kubeconfig string) error {
	p, err := provider(ctx)
	if err != nil {
		return err
	}
	if err := p.Delete(nameOr(name), kubeconfig); err != nil {
		return fmt.Errorf("remove cluster %s: %w", nameOr(name), err)
	}
	return nil
}

// Info is a cluster of this machine.
type Info struct {
	Name  string   `json:"name"`
	Nodes []string `json:"nodes"`
}

// List gives the clusters of this machine, by name.
func List(ctx context.Context) ([]Info, error) {
	p, err := provider(ctx)
	if err != nil {
		return nil, err
	}
	all, err := p.List()
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	slices.Sort(all)
	list := []Info{}
	for _, name := range all {
		nodes, err := p.ListNodes(name)
		if err != nil {
			return nil, fmt.Errorf("list nodes of %s: %w", name, err)
		}
		info := Info{Name: name, Nodes: []string{}}
		for _, n := range nodes {
			info.Nodes = append(info.Nodes, n.String())
		}
		slices.Sort(info.Nodes)
		list = append(list, info)
	}
	return list, nil
}

func nameOr(name string) string {
	if name == "" {
		return DefaultName
	}
	return name
}
