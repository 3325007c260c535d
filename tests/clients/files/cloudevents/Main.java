import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.core.message.MessageWriter;
import io.cloudevents.http.HttpMessageFactory;
import io.cloudevents.jackson.JsonFormat;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** Sends events with the SDK for Java, in both modes: Main URL EVENTS */
public class Main {
    public static void main(String[] arguments) throws IOException {
        for (JsonNode node : new ObjectMapper().readTree(Files.readString(Path.of(arguments[1])))) {
            CloudEvent event = new JsonFormat().deserialize(node.toString().getBytes(StandardCharsets.UTF_8));
            send(arguments[0], event, false);
            send(arguments[0], event, true);
        }
    }

    private static void send(String url, CloudEvent event, boolean isStructured) throws IOException {
        HttpURLConnection connection = (HttpURLConnection) URI.create(url).toURL().openConnection();
        connection.setRequestMethod("POST");
        connection.setDoOutput(true);
        MessageWriter<?, ?> writer = HttpMessageFactory.createWriter(connection::setRequestProperty, body -> {
            try (var out = connection.getOutputStream()) {
                out.write(body == null ? new byte[0] : body);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        });
        if (isStructured) {
            writer.writeStructured(event, new JsonFormat());
        } else {
            writer.writeBinary(event);
        }
        if (connection.getResponseCode() != 204) {
            var said = connection.getErrorStream();
            throw new IOException(connection.getResponseCode() + " " + (said == null ? "" : new String(said.readAllBytes())));
        }
    }
}
