import java.net.InetSocketAddress;

import org.apache.hadoop.hive.conf.HiveConf;
import org.apache.hadoop.hive.metastore.HiveMetaStore;
import org.apache.hadoop.hive.metastore.IHMSHandler;
import org.apache.hadoop.hive.metastore.TUGIBasedProcessor;
import org.apache.hadoop.hive.thrift.TUGIContainingTransport;
import org.apache.thrift.protocol.TBinaryProtocol;
import org.apache.thrift.server.TThreadPoolServer;
import org.apache.thrift.transport.TServerSocket;

/**
 * The Hive metastore, listening on 127.0.0.1 only: its own main class listens on all addresses and, as of 2.3, has no
 * setting for that. Run from source by Janino, which Spark ships, so that no JDK is needed.
 */
public class LoopbackMetastore {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        HiveConf conf = new HiveConf(HiveMetaStore.class);
        IHMSHandler handler = HiveMetaStore.newRetryingHMSHandler(new HiveMetaStore.HMSHandler("metastore", conf, false), conf);
        TThreadPoolServer.Args options = new TThreadPoolServer.Args(new TServerSocket(new InetSocketAddress("127.0.0.1", port)));
        options.processor(new TUGIBasedProcessor(handler));
        options.transportFactory(new TUGIContainingTransport.Factory());
        options.protocolFactory(new TBinaryProtocol.Factory());
        options.minWorkerThreads(4);
        options.maxWorkerThreads(200);
        new TThreadPoolServer(options).serve();
    }
}
