// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/weirnet/weir/agent/config"
)

// Options are of one installation.
type Options struct {
	// Image and APIServer may be empty: those in force, else DefaultImage and
	// what the cluster says.
	Image, APIServer string
	// Change edits the configuration that is in force, or config.Default.
	Change func(*config.Config)
	// Force applies in spite of obstacles.
	Force bool
	// TakeOver has agents take over the pods of a CNI plugin whose daemon is
	// gone: nodes may be ready already.
	TakeOver bool
	// Wait waits until every node has a ready agent, for Timeout at most.
	Wait    bool
	Timeout time.Duration
}

// Plan makes the manifest: what o says, over what is in force. A configuration
// that does not hold together is an error, and names the field.
func (c *Cluster) Plan(ctx context.Context, o Options) (*Manifest, error) {
	m := &Manifest{Image: DefaultImage, Config: config.Default()}
	current, err := c.kube.CoreV1().ConfigMaps(Namespace).Get(ctx, ConfigMapName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return nil, fmt.Errorf("read ConfigMap %s/%s: %w", Namespace, ConfigMapName, err)
	default:
		if m.Config, err = config.Parse([]byte(current.Data[keyConfig])); err != nil {
			return nil, fmt.Errorf("read ConfigMap %s/%s: %w", Namespace, ConfigMapName, err)
		}
		if image := current.Data[keyImage]; image != "" {
			m.Image = image
		}
	}
	if err := m.change(o); err != nil {
		return nil, err
	}
	if m.APIServer == "" {
		if m.APIServer, err = c.APIServer(ctx); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// NewManifest makes the manifest of a first installation, without a cluster:
// o.APIServer is needed.
func NewManifest(o Options) (*Manifest, error) {
	m := &Manifest{Image: DefaultImage, Config: config.Default()}
	if o.APIServer == "" {
		return nil, ErrNoAPIServer
	}
	return m, m.change(o)
}

// change puts what o says over what is in force.
func (m *Manifest) change(o Options) error {
	m.Image = cmp.Or(o.Image, m.Image)
	m.APIServer = o.APIServer
	if o.Change != nil {
		o.Change(&m.Config)
	}
	return m.Config.Validate()
}

// Install applies m after it has checked permissions and the cluster, and
// waits as o says. Again it is an upgrade: agents are replaced one by one, and
// connections go on.
func (c *Cluster) Install(ctx context.Context, m *Manifest, o Options) error {
	if err := c.checkPermissions(ctx, installPermissions()); err != nil {
		return err
	}
	if err := c.checkObstacles(ctx, o); err != nil {
		return err
	}
	objects, err := m.objects()
	if err != nil {
		return err
	}
	for i := range objects {
		if err := c.apply(ctx, &objects[i]); err != nil {
			return err
		}
	}
	c.tellf("applied %d objects: image %s, API server %s", len(objects), m.Image, m.APIServer)
	if !o.Wait {
		return nil
	}
	if err := c.WaitReady(ctx, o.Timeout); err != nil || !o.TakeOver {
		return err
	}
	return c.tellTakenOver(ctx)
}

// tellTakenOver names the pods that keep their former network.
func (c *Cluster) tellTakenOver(ctx context.Context) error {
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	for i := range status {
		if status[i].Agent == nil {
			c.tellf("node %s: 'weir status' says which pods were taken over", status[i].Node)
			continue
		}
		c.tellf("node %s: pods taken over: %d", status[i].Node, status[i].Agent.Endpoints.TakenOver)
		for _, r := range status[i].Agent.Refused {
			if r.Object.Kind == "Pod" {
				c.tellf("node %s: not taken over: %s: %s", status[i].Node, r.Object, r.Problem)
			}
		}
	}
	return nil
}

func (c *Cluster) checkObstacles(ctx context.Context, o Options) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	sets, err := c.kube.AppsV1().DaemonSets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list DaemonSets: %w", err)
	}
	fresh := true
	for i := range sets.Items {
		if sets.Items[i].Namespace == Namespace && sets.Items[i].Name == Name {
			fresh = false
		}
	}
	found := obstacles(nodes, sets.Items, fresh && !o.TakeOver)
	if !o.Force {
		return obstacleError(found)
	}
	for _, obstacle := range found {
		c.tell("warning: " + obstacle.String())
	}
	return nil
}

func (c *Cluster) nodes(ctx context.Context) ([]corev1.Node, error) {
	list, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return list.Items, nil
}

func (c *Cluster) client(resource schema.GroupVersionResource, namespace string) dynamic.ResourceInterface {
	if namespace == "" {
		return c.dynamic.Resource(resource)
	}
	return c.dynamic.Resource(resource).Namespace(namespace)
}

// apply makes an object as it is here, and leaves fields that others own. A
// CustomResourceDefinition that somebody else made stays as it is: its schema
// is the better one.
func (c *Cluster) apply(ctx context.Context, o *object) error {
	client := c.client(o.resource, o.GetNamespace())
	if o.resource == resourceCRD {
		there, err := client.Get(ctx, o.GetName(), metav1.GetOptions{})
		if err == nil && there.GetLabels()[labelManagedBy] != Name {
			c.tellf("%s is there already", o.title())
			return nil
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read %s: %w", o.title(), err)
		}
	}
	if _, err := client.Apply(ctx, o.GetName(), o.Unstructured, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply %s: %w", o.title(), err)
	}
	return nil
}
