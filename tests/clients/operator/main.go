// Drives a cluster as operators do, which are written on controller-runtime: `operator KUBECONFIG CONTEXT IMAGE`.
// Prints what it has seen to hold, and ends with 1 at the first thing that does not.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const (
	namespace = "operator-client"
	patience  = 30 * time.Second
)

func main() {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: os.Args[1]}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: os.Args[2]}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	if err == nil {
		log.SetLogger(logr.Discard())
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		err = run(ctx, config, os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, config *rest.Config, image string) error {
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, addSites} {
		if err := add(types); err != nil {
			return err
		}
	}
	direct, err := client.New(config, client.Options{Scheme: types})
	if err != nil {
		return err
	}
	if err = define(ctx, direct); err != nil {
		return fmt.Errorf("the definition: %w", err)
	}
	fmt.Println("ok: a definition is established")
	removed := make(chan string, 10)
	first, err := start(ctx, config, types, image, removed)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context, client.Client) error
	}{
		{"what an object asks for is made, and said in its status", makes},
		{"what others change is put back", putsBack},
		{"what is kept in mind is found by index", func(ctx context.Context, _ client.Client) error { return found(ctx, first.cached) }},
		{"another operator takes over", func(ctx context.Context, direct client.Client) error {
			first.stop()
			if _, err := start(ctx, config, types, image, removed); err != nil {
				return err
			}
			return changes(ctx, direct)
		}},
		{"what is deleted is finalized first, and takes along what it owns", func(ctx context.Context, direct client.Client) error {
			return removes(ctx, direct, removed)
		}},
	} {
		if err := step.run(ctx, direct); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Println("ok:", step.name)
	}
	return nil
}

type operator struct {
	cached client.Client
	stop   func()
}

// An operator that leads, or waits until no other does.
func start(ctx context.Context, config *rest.Config, types *runtime.Scheme, image string, removed chan<- string) (operator, error) {
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: types, Metrics: server.Options{BindAddress: "0"},
		LeaderElection: true, LeaderElectionID: "sites", LeaderElectionNamespace: namespace, LeaderElectionReleaseOnCancel: true,
		LeaseDuration: ptr.To(6 * time.Second), RenewDeadline: ptr.To(4 * time.Second), RetryPeriod: ptr.To(500 * time.Millisecond),
	})
	if err != nil {
		return operator{}, err
	}
	reconciler := &reconciler{manager.GetClient(), manager.GetEventRecorder("sites"), image, removed}
	if err = reconciler.add(ctx, manager); err != nil {
		return operator{}, err
	}
	own, stop := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- manager.Start(own) }()
	return operator{manager.GetClient(), func() { stop(); <-stopped }}, nil
}

func define(ctx context.Context, direct client.Client) error {
	name := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if err := direct.Create(ctx, name); err != nil {
		return err
	}
	object := apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}
	definition := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "sites.web.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group.Group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "sites", Singular: "site", Kind: "Site", ListKind: "SiteList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: group.Version, Served: true, Storage: true,
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": object, "status": object},
				}},
			}},
		},
	}
	if err := direct.Create(ctx, definition); err != nil && !errors.IsAlreadyExists(err) {
		return err
	}
	return eventually(ctx, func() error {
		if err := direct.Get(ctx, client.ObjectKeyFromObject(definition), definition); err != nil {
			return err
		}
		for _, condition := range definition.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("%+v", definition.Status)
	})
}

var key = types.NamespacedName{Namespace: namespace, Name: "shop"}

func makes(ctx context.Context, direct client.Client) error {
	site := &Site{ObjectMeta: metav1.ObjectMeta{Name: key.Name, Namespace: namespace}, Spec: SiteSpec{Page: "first", Replicas: 2}}
	if err := direct.Create(ctx, site); err != nil {
		return err
	}
	return ready(ctx, direct, 2)
}

func putsBack(ctx context.Context, direct client.Client) error {
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: key.Name, Namespace: namespace}}
	if err := direct.Patch(ctx, deployment, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":0}}`))); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		if err := direct.Get(ctx, key, deployment); err != nil || *deployment.Spec.Replicas == 2 && deployment.Generation >= 3 {
			return err
		}
		return fmt.Errorf("%d replicas, generation %d", *deployment.Spec.Replicas, deployment.Generation)
	})
}

func found(ctx context.Context, cached client.Client) error {
	for page, count := range map[string]int{"first": 1, "second": 0} {
		var sites SiteList
		if err := cached.List(ctx, &sites, client.MatchingFields{"spec.page": page}); err != nil || len(sites.Items) != count {
			return fmt.Errorf("%s: %w, %+v", page, err, sites.Items)
		}
	}
	return nil
}

func changes(ctx context.Context, direct client.Client) error {
	var site Site
	if err := direct.Get(ctx, key, &site); err != nil {
		return err
	}
	old := site.DeepCopyObject().(*Site)
	site.Spec = SiteSpec{Page: "second", Replicas: 1}
	if err := direct.Patch(ctx, &site, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	old.Spec.Replicas = 7
	if err := direct.Update(ctx, old); !errors.IsConflict(err) {
		return fmt.Errorf("an old version is written: %v", err)
	}
	if err := ready(ctx, direct, 1); err != nil {
		return err
	}
	var page corev1.ConfigMap
	if err := direct.Get(ctx, key, &page); err != nil || page.Data["index.html"] != "second" {
		return fmt.Errorf("%w: %+v", err, page.Data)
	}
	return nil
}

func removes(ctx context.Context, direct client.Client, removed <-chan string) error {
	if err := direct.Delete(ctx, &Site{ObjectMeta: metav1.ObjectMeta{Name: key.Name, Namespace: namespace}}); err != nil {
		return err
	}
	select {
	case name := <-removed:
		if name != key.Name {
			return fmt.Errorf("%s was finalized", name)
		}
	case <-time.After(patience):
		return fmt.Errorf("never finalized")
	}
	return eventually(ctx, func() error {
		for _, object := range []client.Object{&Site{}, &appsv1.Deployment{}, &corev1.ConfigMap{}} {
			if err := direct.Get(ctx, key, object); !errors.IsNotFound(err) {
				return fmt.Errorf("%T is there: %v", object, err)
			}
		}
		return nil
	})
}

func ready(ctx context.Context, direct client.Client, replicas int32) error {
	var site Site
	return eventually(ctx, func() error {
		if err := direct.Get(ctx, key, &site); err != nil || site.Status.Ready == replicas && site.Status.ObservedGeneration == site.Generation {
			return err
		}
		return fmt.Errorf("generation %d, status %+v", site.Generation, site.Status)
	})
}

func eventually(ctx context.Context, holds func() error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		last = holds()
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return nil
}
